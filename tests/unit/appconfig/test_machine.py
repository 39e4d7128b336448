import base64

import pytest

from godwit.appconfig import files, machine
from godwit.appconfig.machine import ReleaseMark


def config(tmp_path, text):
    path = tmp_path / "fly.toml"
    path.write_text(text)
    return files.load(path).checked()


def made(tmp_path, text, group="app", **more):
    return machine.to_machine_config(config(tmp_path, text), group, image="hello:1", **more)


def test_the_least_file_becomes_the_least_config(tmp_path):
    assert made(tmp_path, 'app = "hello"') == {
        "image": "hello:1",
        "env": {"FLY_PROCESS_GROUP": "app"},
        "metadata": {"fly_platform_version": "v2", "fly_process_group": "app"},
    }


def test_a_release_leaves_its_mark(tmp_path):
    found = made(tmp_path, "", release=ReleaseMark("rel_1", 7))
    assert found["metadata"]["fly_release_id"] == "rel_1"
    assert found["metadata"]["fly_release_version"] == "7"


def test_the_primary_region_is_told_to_the_app_over_its_own_value(tmp_path):
    text = 'primary_region = "fra"\n[env]\nPRIMARY_REGION = "x"\nA = "1"'
    assert made(tmp_path, text)["env"] == {
        "A": "1",
        "FLY_PROCESS_GROUP": "app",
        "PRIMARY_REGION": "fra",
    }


def test_http_service_is_two_ports_of_one_tcp_service(tmp_path):
    text = """
[http_service]
internal_port = 3000
force_https = true
auto_stop_machines = "stop"
auto_start_machines = true
min_machines_running = 1
[http_service.concurrency]
type = "requests"
soft_limit = 5
[http_service.http_options]
h2_backend = true
[http_service.tls_options]
alpn = ["h2"]
[[http_service.checks]]
path = "/up"
interval = "15s"
timeout = 2000
grace_period = "100ms"
headers = { Host = "x" }
"""
    assert made(tmp_path, text)["services"] == [
        {
            "protocol": "tcp",
            "internal_port": 3000,
            "autostop": True,
            "autostart": True,
            "min_machines_running": 1,
            "concurrency": {"type": "requests", "soft_limit": 5},
            "ports": [
                {
                    "port": 80,
                    "handlers": ["http"],
                    "force_https": True,
                    "http_options": {"h2_backend": True},
                },
                {
                    "port": 443,
                    "handlers": ["http", "tls"],
                    "http_options": {"h2_backend": True},
                    "tls_options": {"alpn": ["h2"]},
                },
            ],
            "checks": [
                {
                    "type": "http",
                    "interval": "15s",
                    "timeout": "2s",
                    "grace_period": "1s",
                    "path": "/up",
                    "headers": [{"name": "Host", "values": ["x"]}],
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ('"off"', False),
        ('"stop"', True),
        ('"suspend"', "suspend"),
        ("true", True),
        ("false", False),
    ],
)
def test_autostop_is_spoken_as_the_api_does(tmp_path, written, spoken):
    found = made(tmp_path, f"[http_service]\nauto_stop_machines = {written}")
    assert found["services"][0]["autostop"] == spoken


def test_services_keep_their_ports_and_checks(tmp_path):
    text = """
[[services]]
internal_port = 5432
[[services.ports]]
port = 5432
handlers = ["pg_tls"]
[[services.ports]]
start_port = 6000
end_port = 6010
[[services.tcp_checks]]
interval = "10s"
[[services.http_checks]]
method = "get"
path = "/"
"""
    assert made(tmp_path, text)["services"] == [
        {
            "protocol": "tcp",
            "internal_port": 5432,
            "ports": [
                {"port": 5432, "handlers": ["pg_tls"]},
                {"start_port": 6000, "end_port": 6010},
            ],
            "checks": [
                {"type": "tcp", "interval": "10s"},
                {"type": "http", "method": "get", "path": "/"},
            ],
        }
    ]


def test_commands_as_checks_and_what_gates_routing_are_keys_of_our_own(tmp_path):
    text = """
app = "hello"
[checks.db]
type = "exec"
command = ["pg_isready", "-q"]
interval = "10s"
[checks.up]
type = "http"
port = 8080
path = "/up"
kind = "readiness"
"""
    assert made(tmp_path, text)["checks"] == {
        "db": {"type": "exec", "command": ["pg_isready", "-q"], "interval": "10s"},
        "up": {"type": "http", "kind": "readiness", "port": 8080, "path": "/up"},
    }


def test_top_level_checks_take_the_port_of_the_http_service(tmp_path):
    text = """
[http_service]
internal_port = 8080
[checks.up]
type = "http"
method = "head"
path = "/"
interval = "5s"
[checks.tcp]
type = "tcp"
port = 9
"""
    assert made(tmp_path, text)["checks"] == {
        "up": {"type": "http", "port": 8080, "interval": "5s", "method": "HEAD", "path": "/"},
        "tcp": {"type": "tcp", "port": 9},
    }


def test_stop_restart_swap_metrics_and_statics(tmp_path):
    text = """
kill_signal = "SIGTERM"
kill_timeout = 30
swap_size_mb = 512
[[restart]]
policy = "never"
retries = 3
[metrics]
port = 9091
[[statics]]
guest_path = "/public"
url_prefix = "/static"
"""
    found = made(tmp_path, text)
    assert found["stop_config"] == {"signal": "SIGTERM", "timeout": "30s"}
    assert found["restart"] == {"policy": "no", "max_retries": 3}
    assert found["init"] == {"swap_size_mb": 512}
    assert found["metrics"] == {"path": "/metrics", "port": 9091}
    assert found["statics"] == [{"guest_path": "/public", "url_prefix": "/static"}]


GROUPS = """
[processes]
web = "run --port 80"
worker = ""
[experimental]
cmd = "fallback"
entrypoint = ["/entry"]
[http_service]
internal_port = 80
processes = ["web"]
[[vm]]
size = "shared-cpu-2x"
[[vm]]
size = "shared-cpu-4x"
processes = ["worker"]
[[restart]]
policy = "always"
"""


def test_sections_go_to_the_groups_they_name_or_to_the_default_one(tmp_path):
    web, worker = made(tmp_path, GROUPS, "web"), made(tmp_path, GROUPS, "worker")
    assert web["init"] == {"cmd": ["run", "--port", "80"], "entrypoint": ["/entry"]}
    assert worker["init"] == {"cmd": ["fallback"], "entrypoint": ["/entry"]}
    assert "services" in web
    assert "services" not in worker
    assert web["guest"] == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512}
    assert worker["guest"] == {"cpu_kind": "shared", "cpus": 4, "memory_mb": 1024}
    assert web["restart"] == {"policy": "always"}
    assert "restart" not in worker
    assert worker["metadata"]["fly_process_group"] == "worker"


def test_memory_mb_beats_memory(tmp_path):
    found = made(tmp_path, "[vm]\nmemory = '512mb'\nmemory_mb = 1024")
    assert found["guest"]["memory_mb"] == 1024


def test_files_come_from_here_from_secrets_or_from_the_text(tmp_path):
    text = """
[[files]]
guest_path = "/a"
local_path = "a.txt"
[[files]]
guest_path = "/b"
secret_name = "B"
[[files]]
guest_path = "/c"
raw_value = "aGVsbG8="
[[files]]
guest_path = "/d"
raw_value = "not base64!"
[[files]]
guest_path = "/e"
"""
    found = made(tmp_path, text, read_file=lambda name: f"<{name}>".encode())
    assert found["files"] == [
        {"guest_path": "/a", "raw_value": base64.b64encode(b"<a.txt>").decode()},
        {"guest_path": "/b", "secret_name": "B"},
        {"guest_path": "/c", "raw_value": "aGVsbG8="},
        {"guest_path": "/d", "raw_value": base64.b64encode(b"not base64!").decode()},
    ]


def test_an_update_replaces_what_deploys_own_and_keeps_the_rest():
    current = {
        "image": "old",
        "env": {"OLD": "1"},
        "guest": {"cpus": 2},
        "services": [{}],
        "restart": {"policy": "always"},
        "schedule": "daily",
        "standbys": ["x"],
        "auto_destroy": False,
        "mounts": [{"volume": "vol_1"}],
        "metadata": {"mine": "kept", "fly_release_version": "1"},
    }
    new = {"image": "new", "env": {}, "metadata": {"fly_release_version": "2"}}
    assert machine.updated(current, new) == {
        "image": "new",
        "env": {},
        "guest": {"cpus": 2},
        "schedule": "daily",
        "standbys": ["x"],
        "auto_destroy": False,
        "mounts": [{"volume": "vol_1"}],
        "metadata": {"mine": "kept", "fly_release_version": "2"},
    }


def test_options_of_a_port_are_handed_on_without_keys_nobody_knows(tmp_path):
    text = """
[[services]]
internal_port = 1
[[services.ports]]
port = 443
handlers = ["tls", "http"]
[services.ports.tls_options]
alpn = ["h2"]
default_self_signed = false
colour = "red"
[services.ports.http_options]
idle_timeout = 60
[services.ports.http_options.response]
headers = { Server = false, X = ["1", "2"] }
[[services.ports.http_options.replay_cache]]
path_prefix = "/"
ttl_seconds = 10
type = "cookie"
name = "s"
[services.ports.proxy_proto_options]
version = "v2"
"""
    (port,) = made(tmp_path, text)["services"][0]["ports"]
    assert port == {
        "port": 443,
        "handlers": ["tls", "http"],
        "tls_options": {"alpn": ["h2"], "default_self_signed": False},
        "http_options": {
            "idle_timeout": 60,
            "response": {"headers": {"Server": False, "X": ["1", "2"]}},
            "replay_cache": [
                {"path_prefix": "/", "ttl_seconds": 10, "type": "cookie", "name": "s"}
            ],
        },
        "proxy_proto_options": {"version": "v2"},
    }


@pytest.mark.parametrize(
    ("written", "range_"),
    [
        ("start_port = 5000", (5000, 65_535)),
        ("end_port = 10", (1, 10)),
        ("start_port = 0\nend_port = 10", (1, 10)),
    ],
)
def test_an_open_range_of_ports_goes_as_far_as_ports_go(tmp_path, written, range_):
    text = f"[[services]]\ninternal_port = 1\n[[services.ports]]\n{written}\n"
    (port,) = made(tmp_path, text)["services"][0]["ports"]
    assert (port["start_port"], port["end_port"]) == range_


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("stop", "suspend", True),
        ("suspend", "suspend", "suspend"),
        ("off", "stop", False),
        ("stop", None, False),
    ],
)
def test_services_of_one_machine_agree_on_the_least_autostop(tmp_path, first, second, both):
    text = f'[http_service]\ninternal_port = 1\nauto_stop_machines = "{first}"\n[[services]]\n'
    text += f'auto_stop_machines = "{second}"\n' if second else ""
    assert [one["autostop"] for one in made(tmp_path, text)["services"]] == [both, both]


def test_the_file_is_laid_over_a_raw_machine_config(tmp_path):
    raw = '{"env": {"A": "0", "B": "0"}, "schedule": "daily", "init": {"tty": true}, "image": "x"}'
    text = f'machine_config = \'{raw}\'\n[env]\nA = "1"\n[experimental]\ncmd = ["c"]\n'
    found = made(tmp_path, text)
    assert found["env"] == {"A": "1", "B": "0", "FLY_PROCESS_GROUP": "app"}
    assert found["init"] == {"tty": True, "cmd": ["c"]}
    assert (found["schedule"], found["image"]) == ("daily", "hello:1")


def test_kernel_arguments_are_a_list_or_a_line(tmp_path):
    for written in ('"quiet debug"', '["quiet", "debug"]'):
        found = made(tmp_path, f"[[vm]]\nkernel_args = {written}")
        assert found["guest"]["kernel_args"] == ["quiet", "debug"]
