"""`godwit machine run|create|clone|update|place|destroy --image|restart`."""

import json

import pytest

from godwit.cli import exits
from godwit.testing.fake_machine import Script, managed_config

SERVICE = {
    "protocol": "tcp",
    "internal_port": 80,
    "ports": [{"port": 80, "handlers": ["http"]}],
    "concurrency": {"type": "requests"},
}


@pytest.fixture
def hello(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n')
    return cli


@pytest.fixture
def web(hello):
    config = {
        **managed_config("hello:1", "web"),
        "env": {"A": "1"},
        "services": [SERVICE],
        "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
    }
    return hello.fake.machines[hello.fake.add_machine("hello", config)]


def body(cli):
    return next(body for target, body in reversed(cli.fake.bodies) if "config" in body)


class TestRun:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ((), {"restart": {"policy": "always"}}),
            (("--rm",), {"restart": {"policy": "no"}, "auto_destroy": True}),
            (("--restart", "no"), {"restart": {"policy": "no"}}),
            (
                ("--schedule", "daily"),
                {"restart": {"policy": "on-failure"}, "schedule": "daily"},
            ),
            (
                ("--schedule", "daily", "--restart", "always"),
                {"restart": {"policy": "always"}, "schedule": "daily"},
            ),
            (("--", "sh", "-c", "a b"), {"init": {"cmd": ["sh", "-c", "a b"]}}),
            (("--command", "sh -c 'a b'"), {"init": {"cmd": ["sh", "-c", "a b"]}}),
            (("--entrypoint", "/bin/sh -e"), {"init": {"entrypoint": ["/bin/sh", "-e"]}}),
            (("--rootfs-size", "4"), {"rootfs": {"size_gb": 4}}),
            (
                ("--rootfs-persist", "always", "--rootfs-size", "4"),
                {"rootfs": {"size_gb": 4, "persist": "always"}},
            ),
            (("--swap-size", "512"), {"init": {"swap_size_mb": 512}}),
            (("--swap-size", "1gb"), {"init": {"swap_size_mb": 1024}}),
            (("--cachedrive-size", "1gb"), {"cache_drive": {"size_mb": 1024}}),
            (("--skip-dns-registration",), {"dns": {"skip_registration": True}}),
            (("-m", "a=b", "-e", "C=d=e"), {"metadata": {"a": "b"}, "env": {"C": "d=e"}}),
            (
                ("-p", "80:8080/tcp:http", "--autostop", "suspend", "--no-autostart"),
                {
                    "services": [
                        {
                            "protocol": "tcp",
                            "internal_port": 8080,
                            "ports": [{"port": 80, "handlers": ["http"]}],
                            "autostop": "suspend",
                            "autostart": False,
                        }
                    ]
                },
            ),
            (
                ("--kernel-arg", "quiet", "--vm-size", "shared-cpu-2x"),
                {
                    "guest": {
                        "cpu_kind": "shared",
                        "cpus": 2,
                        "memory_mb": 512,
                        "kernel_args": ["quiet"],
                    }
                },
            ),
        ],
    )
    def test_flags_become_the_config(self, hello, flags, expected):
        done = hello("machine", "run", "job:1", "--detach", *flags)
        assert done.code == 0, done.stderr
        assert body(hello)["config"] == {
            "image": "job:1",
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
            "restart": {"policy": "always"},
            **expected,
        }

    def test_a_machine_config_is_the_ground_and_flags_lie_over_it(self, hello):
        given = {
            "env": {"A": "1", "B": "2"},
            "guest": {"memory_mb": 512},
            "restart": {"policy": "on-failure", "max_retries": 3},
            "zzz": 1,
        }
        hello.write("machine.json", json.dumps(given))
        for named in ("machine.json", json.dumps(given)):
            done = hello("machine", "run", "job:1", "-e", "B=3", "--machine-config", named)
            assert done.code == 0, done.stderr
            assert body(hello)["config"] == {
                **given,
                "image": "job:1",
                "env": {"A": "1", "B": "3"},
                "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
            }

    def test_a_folder_is_built(self, hello):
        hello.write("tool/Dockerfile", "FROM scratch\n")
        hello.write("tool/fly.toml", 'app = "other"\n[build.args]\nA = "1"\n')
        done = hello("machine", "run", "./tool", "--build-arg", "B=2", "--rm")
        assert done.code == 0, done.stderr
        digest = "sha256:" + "a" * 64
        assert body(hello)["config"]["image"] == f"registry.internal/hello:deployment-1@{digest}"
        assert "Dockerfile" in hello.fake.contexts[0]
        assert hello("machine", "run", "./nope").code == exits.NOT_FOUND

    def test_where_there_is_no_app_it_gets_one(self, cli):
        done = cli("machine", "run", "job:1", "--json")
        assert done.code == 0, done.stderr
        (name,) = cli.fake.apps
        assert f"made the app {name} for it\n" in done.stderr
        assert cli.fake.machines[done.json["id"]].app == name
        assert cli("machine", "run", "job:1", "-a", "nope").code == exits.NOT_FOUND

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("-v", "data:/data"), "--volume: this platform has no volumes yet"),
            (("--swap-size", "much"), "--swap-size: expected a memory size such as 512 (MB)"),
            (("--rootfs-persist", "x"), "--rootfs-persist: expected never, restart, always"),
            (("--cachedrive-size", "big"), "--cachedrive-size: expected a memory size such as"),
            (("--user", "me"), "--user: goes with `godwit machine run --shell`"),
            (("--command", "a", "--", "b"), "the command is there already"),
            (("--command", "'a"), "--command: No closing quotation in 'a"),
            (("--autostop", "stop"), "--autostop: the machine has no service"),
            (("-p", "80", "--autostop", "x"), "--autostop: expected off, stop or suspend"),
            (("--machine-config", "{"), "--machine-config: not JSON"),
            (("--machine-config", "nope.json"), "--machine-config: cannot read nope.json"),
            (("--machine-config", "list.json"), "--machine-config: expected an object"),
        ],
    )
    def test_what_cannot_be(self, hello, flags, said):
        hello.write("list.json", "[]")
        done = hello("machine", "run", "x", *flags)
        assert done.code == exits.USAGE
        assert said in done.stderr
        assert hello.fake.bodies == []

    def test_create_leaves_it_stopped(self, hello):
        done = hello("machine", "create", "job:1", "-n", "spare", "-r", "fra")
        assert done.code == 0, done.stderr
        sent = body(hello)
        assert (sent["skip_launch"], sent["name"], sent["region"]) == (True, "spare", "fra")
        (made,) = hello.fake.machines.values()
        assert done.stdout == f"{made.id}\n"
        assert made.events == []


class TestClone:
    def test_a_copy_is_what_the_other_is(self, hello, web):
        done = hello("machine", "clone", web.id)
        copy = list(hello.fake.machines.values())[1]
        assert (done.code, done.stdout) == (0, f"{copy.id}\n"), done.stderr
        assert copy.config == web.config
        assert (copy.region, copy.state) == (web.region, "started")

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (("--override-cmd", "sleep 5"), {"init": {"tty": True, "cmd": ["sleep", "5"]}}),
            (("--clear-cmd",), {"init": {"tty": True}}),
            (("--clear-auto-destroy",), {"auto_destroy": None}),
            (
                ("--vm-memory", "512"),
                {"guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}},
            ),
        ],
    )
    def test_what_may_be_different(self, hello, web, flags, expected):
        web.config |= {"auto_destroy": True, "init": {"tty": True, "cmd": ["serve"]}}
        done = hello("machine", "clone", web.id, "-r", "fra", "-n", "two", "-d", *flags)
        assert done.code == 0, done.stderr
        sent = body(hello)
        assert (sent["region"], sent["name"]) == ("fra", "two")
        wanted = {**web.config, **expected}
        assert sent["config"] == {key: one for key, one in wanted.items() if one is not None}

    def test_a_standby_of_the_source_rests(self, hello, web):
        del web.config["services"]
        done = hello("machine", "clone", web.id, "--standby-for", "source", "--json")
        assert done.code == 0, done.stderr
        sent = body(hello)
        assert sent["skip_launch"] is True
        assert sent["config"]["standbys"] == [web.id]
        assert sent["config"]["env"] == {"A": "1", "FLY_STANDBY_FOR": web.id}
        again = hello("machine", "clone", done.json["id"], "--json")
        assert "standbys" not in again.json["config"]
        assert again.json["config"]["env"] == {"A": "1"}

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--attach-volume", "vol_1"), "--attach-volume: this platform has no volumes yet"),
            (("--from-snapshot", "last"), "--from-snapshot: this platform has no volumes yet"),
            (("--override-cmd", "a", "--clear-cmd"), "--override-cmd or --clear-cmd, not both"),
            (("--standby-for", "web"), '"web" is not the id of a machine'),
        ],
    )
    def test_what_cannot_be(self, hello, web, flags, said):
        done = hello("machine", "clone", web.id, *flags)
        assert done.code == exits.USAGE
        assert said in done.stderr
        assert hello.fake.bodies == []

    def test_a_machine_with_a_volume(self, hello, web):
        web.config["mounts"] = [{"volume": "vol_1", "path": "/data"}]
        done = hello("machine", "clone", web.id)
        assert done.code == exits.FAILED
        assert "has a volume, and this platform has no volumes yet" in done.stderr


class TestUpdate:
    def test_what_is_different_is_shown_and_agreed_to(self, hello, web):
        arguments = ("machine", "update", web.id, "--vm-memory", "512", "-e", "B=2", "-i", "x:2")
        done = hello(*arguments)
        assert done.code == exits.USAGE
        assert done.stderr.startswith(
            f"{web.id} will be changed:\n"
            '    ~ image: "hello:1" → "x:2"\n'
            '    + env.B: "2"\n'
            "    ~ guest.memory_mb: 256 → 512\n"
            f"error: Update {web.id}? Nobody is here to answer."
        )
        assert web.config["image"] == "hello:1"
        hello.interactive, hello.answers = True, ["n\n", "y\n"]
        assert hello(*arguments).code == 1
        done = hello(*arguments)
        assert (done.code, done.stdout) == (0, f"{web.id}\n")
        assert web.config["image"] == "x:2"
        assert web.config["env"] == {"A": "1", "B": "2"}
        assert web.config["guest"]["memory_mb"] == 512
        assert web.config["services"] == [SERVICE]
        assert web.lease is None

    def test_a_port_is_added_or_replaced(self, hello, web):
        done = hello("machine", "update", web.id, "-p", "81:80", "-p", "90", "--autostart", "-y")
        assert done.code == 0, done.stderr
        first, second = web.config["services"]
        assert first == {**SERVICE, "ports": [{"port": 81}], "autostart": True}
        assert (second["internal_port"], second["autostart"]) == (90, True)

    def test_without_a_start(self, hello, web):
        assert hello("machine", "update", web.id, "-m", "a=b", "--skip-start", "-y").code == 0
        assert body(hello)["skip_launch"] is True

    def test_a_machine_that_rests_is_started_with_it_but_no_standby(self, hello, web):
        web.state = "stopped"
        assert hello("machine", "update", web.id, "--restart", "no", "-y").code == 0
        assert "skip_launch" not in body(hello)
        assert web.state == "started"
        web.config["standbys"] = ["148e21a5b3c9d0"]
        assert hello("machine", "update", web.id, "--restart", "always", "-y").code == 0
        assert body(hello)["skip_launch"] is True

    def test_nothing_to_change(self, hello, web):
        done = hello("machine", "update", web.id, "--env", "A=1")
        assert (done.code, done.stdout) == (0, f"{web.id}\n")
        assert done.stderr == f"{web.id} has this config already\n"
        assert hello.fake.bodies == []

    def test_checks_are_waited_for_or_not(self, hello, web):
        web.config["checks"] = {"up": {"type": "tcp", "port": 80}}
        hello.fake.scripts["x:2"] = Script(checks=("critical",), output="refused")
        arguments = ("machine", "update", web.id, "--image", "x:2", "-y", "--wait-timeout", "5")
        done = hello(*arguments)
        assert done.code == exits.FAILED
        assert "was not well within 5s" in done.stderr
        assert web.lease is None
        done = hello(*arguments, "-e", "B=1", "--skip-health-checks")
        assert done.code == 0, done.stderr

    def test_one_that_was_changed_meanwhile(self, hello, web):
        hello.fake.refuse("POST .*/machines/[0-9a-f]+$", 409, {"error": "conflict: stale version"})
        done = hello("machine", "update", web.id, "-e", "B=1", "-y")
        assert done.code == exits.FAILED
        assert "error: stale version\n" in done.stderr


class TestOthers:
    def test_all_of_an_image_are_destroyed(self, hello, web):
        other = hello.fake.machines[hello.fake.add_machine("hello", {"image": "other:1"})]
        twin = hello.fake.machines[hello.fake.add_machine("hello", web.config)]
        done = hello("machine", "destroy", "--image", "hello:1")
        assert done.code == exits.USAGE
        assert f"Destroy {web.id}, {twin.id} of hello?" in done.stderr
        done = hello("machine", "destroy", "-i", "hello:1", "-f", "-y")
        assert done.code == 0
        assert [one.state for one in (web, twin, other)] == ["destroyed", "destroyed", "started"]
        assert hello("machine", "destroy", "-i", "nope:1", "-y").code == exits.NOT_FOUND
        assert hello("machine", "destroy", "-y").code == exits.USAGE
        assert hello("machine", "destroy", web.id, "-i", "x", "-y").code == exits.USAGE

    def test_several_are_restarted_one_after_another(self, hello, web):
        other = hello.fake.add_machine("hello", web.config)
        done = hello("m", "restart", web.id, other)
        assert done.stderr == f"{web.id} is started again\n{other} is started again\n"

    def test_one_whose_checks_fail_after_the_restart(self, hello, web):
        web.config["checks"] = {"up": {"type": "tcp", "port": 80}}
        hello.fake.scripts["hello:1"] = Script(checks=("critical",), output="refused")
        assert hello("m", "restart", web.id).code == exits.FAILED
        assert hello("m", "restart", web.id, "--skip-health-checks").code == 0

    def test_a_schedule_and_a_standby_are_shown(self, hello, web):
        web.config |= {"schedule": "daily", "standbys": ["148e21a5b3c9d0"]}
        assert " daily " in hello("machine", "list").stdout
        shown = hello("machine", "status", web.id).stdout
        assert "Schedule    daily\n" in shown
        assert "Standby of  148e21a5b3c9d0\n" in shown
        assert "started, standby" in hello("status").stdout

    def test_place(self, hello):
        done = hello("machine", "place", "--count", "3", "--vm-memory", "512", "-r", "lcl")
        assert done.stdout == "REGION  MACHINES  AT ONCE\nlcl     3         0\n"
        assert hello.fake.bodies[-1][1] == {
            "org_slug": "personal",
            "count": 3,
            "region": "lcl",
            "compute": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
        }
        done = hello("machine", "place", "--weights", "spread=10", "--json")
        assert done.json[0]["count"] == 8
        assert hello.fake.bodies[-1][1]["weights"] == {"spread": 10}
        assert hello("machine", "place", "--weights", "luck=1").code == exits.USAGE
