"""What init is told: command, environment, names, resolver, files."""

import base64
from typing import Any

import pytest

from godwit.agent.machines import records, run_spec
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.testing import agents
from godwit.wire import guest

IMAGE = ImageConfig(entrypoint=("/entry",), cmd=("serve",), env=("A=image", "PATH=/bin"))
IP = "fdaa:0:1:1:0:0:2:2"
UDP = "fly-global-services"


def machine(config: dict[str, Any]) -> records.Machine:
    offer = agents.offer("148ed193b95948", config=config, instance_id="01VERSION")
    return records.from_offer(offer, 2, 0)


@pytest.mark.parametrize(
    ("init", "argv"),
    [
        ({}, ("/entry", "serve")),
        ({"cmd": ["work"]}, ("/entry", "work")),
        ({"entrypoint": ["/other"]}, ("/other", "serve")),
        ({"entrypoint": ["/other"], "cmd": ["work"]}, ("/other", "work")),
        ({"exec": ["only", "this"], "cmd": ["work"]}, ("only", "this")),
        ({"cmd": [], "entrypoint": None}, ("/entry", "serve")),
    ],
)
def test_argv(init: dict[str, Any], argv: tuple[str, ...]) -> None:
    assert run_spec.argv({"init": init}, IMAGE) == argv


def test_nothing_to_run_is_said_in_words() -> None:
    with pytest.raises(errors.Failure) as failed:
        run_spec.argv({}, ImageConfig())
    said = "image has neither ENTRYPOINT nor CMD; set one or init.exec"
    assert (failed.value.code, failed.value.message) == ("invalid_argument", said)


def test_the_environment_is_the_image_then_the_config_then_the_platform() -> None:
    config = {
        "env": {"A": "config", "FLY_REGION": "xyz", "N": 1, "NULL": None},
        "metadata": {"fly_process_group": "worker"},
    }
    found = run_spec.environment(machine(config), IMAGE, IP)
    assert found == {
        "A": "config",
        "PATH": "/bin",
        "N": "1",
        "FLY_APP_NAME": "hello",
        "FLY_MACHINE_ID": "148ed193b95948",
        "FLY_ALLOC_ID": "148ed193b95948",
        "FLY_MACHINE_VERSION": "01VERSION",
        "FLY_REGION": "lcl",
        "FLY_PRIVATE_IP": IP,
        "FLY_IMAGE_REF": "registry.example/hello:v1",
        "FLY_PROCESS_GROUP": "worker",
        "FLY_VM_MEMORY_MB": "256",
    }


def test_the_address_outside_is_told_where_there_is_one() -> None:
    found = run_spec.environment(machine({}), IMAGE, IP, public_ip="2001:db8::1")
    assert found["FLY_PUBLIC_IP"] == "2001:db8::1"


def test_the_hosts_file_knows_the_machine_by_all_its_names() -> None:
    config = {"dns": {"hostname": "db", "hostname_fqdn": "db.example.com"}}
    found = {
        each.address: each.names for each in run_spec.hosts(machine(config), IP, "172.16.0.2")
    }
    assert found[IP] == ("db.example.com", "db", "148ed193b95948", "fly-local-6pn", UDP)
    assert found["172.16.0.2"] == (UDP,)
    assert "localhost" in found["127.0.0.1"]
    assert "localhost" in found["::1"]


def test_the_hostname_is_the_id_unless_said() -> None:
    assert run_spec.hostname(machine({})) == "148ed193b95948"
    assert run_spec.hostname(machine({"dns": {"hostname": "db"}})) == "db"


def test_the_resolver_is_the_platforms_unless_said() -> None:
    assert run_spec.resolver({}) == guest.Resolver(nameservers=("fdaa::3",))
    said = {
        "dns": {
            "nameservers": ["9.9.9.9"],
            "searches": ["internal"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}, {}],
        }
    }
    assert run_spec.resolver(said) == guest.Resolver(
        nameservers=("9.9.9.9",), searches=("internal",), options=("ndots:2", "rotate")
    )


def test_names_are_forwarded_as_the_config_says() -> None:
    rules = [
        {"basename": "corp.example.com", "addr": "10.0.0.1"},
        {"basename": "x.internal", "addr": "[fdaa::9]:5353"},
        {"basename": "", "addr": "10.0.0.1"},
        {"basename": "y"},
    ]
    assert run_spec.resolver({"dns": {"dns_forward_rules": rules}}).forwards == (
        guest.Forward(basename="corp.example.com", address="10.0.0.1"),
        guest.Forward(basename="x.internal", address="[fdaa::9]:5353"),
    )


def test_files_carry_base64_and_take_plain_text_too() -> None:
    encoded = base64.b64encode(b"hello").decode()
    found = run_spec.files(
        {
            "files": [
                {"guest_path": "/a", "raw_value": encoded, "mode": 0o600},
                {"guest_path": "/b", "raw_value": "not base64!"},
            ]
        }
    )
    assert base64.b64decode(found[0].content_base64) == b"hello"
    assert base64.b64decode(found[1].content_base64) == b"not base64!"
    assert (found[0].mode, found[1].mode) == (0o600, 0o644)


def test_a_file_is_the_config_of_an_image() -> None:
    config = base64.b64encode(b'{"os": "linux"}').decode()
    given = {"files": [{"guest_path": "/image.json", "image_config": "nginx"}]}
    (found,) = run_spec.files(given, image_files={"nginx": config})
    assert base64.b64decode(found.content_base64) == b'{"os": "linux"}'


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"guest_path": "etc/x", "raw_value": ""}, "files[0]: guest_path must be absolute"),
        ({"guest_path": "/x", "image_config": "nginx"}, "it has no raw_value, secret_name or"),
        ({"guest_path": "/x", "secret_name": "S"}, "the machine has no secret S"),
    ],
)
def test_files_that_cannot_be_are_refused(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.Failure) as failed:
        run_spec.files({"files": [entry]})
    assert said in failed.value.message


def test_the_whole_spec() -> None:
    image = IMAGE.model_copy(update={"user": "app", "working_directory": "/srv"})
    found = run_spec.build(
        machine(
            {
                "init": {"tty": True, "swap_size_mb": 64},
                "statics": [{"guest_path": "/p", "url_prefix": "/s"}],
            }
        ),
        image,
        guest.Network(),
        private_ip=IP,
        local_ipv4="172.16.0.2",
        entropy=b"12345678",
    )
    assert found.process.argv == ("/entry", "serve")
    assert (found.process.user, found.process.working_directory) == ("app", "/srv")
    assert found.process.tty
    assert found.swap == guest.Swap()
    assert found.statics is not None
    assert found.statics.listen == "172.16.0.2:62080"
    assert found.entropy_base64 == base64.b64encode(b"12345678").decode()
    assert guest.RunSpec.model_validate_json(found.model_dump_json()) == found


def test_each_of_several_processes_has_its_own_command_user_and_variables() -> None:
    given = {
        "env": {"A": "machine", "B": "machine"},
        "processes": [
            {"cmd": ["web"], "env": {"A": "own"}},
            {
                "exec": ["worker", "-v"],
                "user": "nobody",
                "ignore_app_secrets": True,
                "secrets": [{"env_var": "TOKEN", "name": "KEY"}],
                "env_from": [{"env_var": "ME", "field_ref": "id"}],
            },
        ],
    }
    secrets = {"KEY": b"k", "OTHER": b"o"}
    made = machine(given)
    web, worker = run_spec.processes(made, IMAGE, IP, secrets=secrets)
    assert web.argv == ("/entry", "web")
    assert (web.env["A"], web.env["B"], web.env["KEY"]) == ("own", "machine", "k")
    assert worker.argv == ("worker", "-v")
    assert worker.user == "nobody"
    assert (worker.env["TOKEN"], worker.env["ME"]) == ("k", made.machine_id)
    assert not worker.env.keys() & {"KEY", "OTHER"}
    assert worker.env["FLY_APP_NAME"] == web.env["FLY_APP_NAME"]


def test_a_process_with_a_secret_that_is_not_there_is_refused_by_name() -> None:
    given = {"processes": [{"cmd": ["a"], "secrets": [{"env_var": "T", "name": "NOPE"}]}]}
    with pytest.raises(errors.Failure, match=r"processes\[0\].secrets: the machine has no secret"):
        run_spec.processes(machine(given), IMAGE, IP)
    (process,) = run_spec.processes(machine(given), IMAGE, IP, secrets=None)
    assert "T" not in process.env
