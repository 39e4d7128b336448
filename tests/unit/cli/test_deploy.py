import asyncio
import os
import signal

import httpx
import pytest

from godwit.cli import exits
from godwit.testing.fake_api import Script, managed_config

CONFIG = """
app = "hello"
primary_region = "lcl"
[env]
GREETING = "hi"
[http_service]
internal_port = 8080
[[http_service.checks]]
path = "/healthz"
interval = "5s"
"""
PINNED = "registry.internal/hello:deployment-1@sha256:" + "a" * 64
FIRST = "00000000000001"


@pytest.fixture
def hello(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", CONFIG)
    cli.write("Dockerfile", "FROM python:3.11-slim\n")
    cli.write("app.py", "print(1)\n")
    return cli


def without_queries(calls):
    return [call.partition("?")[0] for call in calls]


def test_a_first_deploy_call_by_call(hello):
    done = hello("deploy")
    assert done.code == 0
    assert hello.fake.calls == [
        "GET /v1/apps/hello",
        "POST /x/v1/apps/hello/builds?dockerfile=Dockerfile",
        "POST /x/v1/apps/hello/releases",
        "GET /v1/apps/hello/machines",
        "POST /v1/apps/hello/machines",
        (
            f"GET /v1/apps/hello/machines/{FIRST}/wait?state=started&"
            f"version={hello.fake.machines[FIRST].version}&timeout=10"
        ),
        f"GET /v1/apps/hello/machines/{FIRST}",
        "PATCH /x/v1/apps/hello/releases/1",
    ]
    assert hello.fake.contexts == [["Dockerfile", "app.py"]]
    release = hello.fake.releases["hello"][0]
    assert (release["image"], release["status"]) == (PINNED, "complete")
    assert release["config"]["env"] == {"GREETING": "hi"}
    assert hello.fake.machines[FIRST].config == {
        "image": PINNED,
        "env": {"GREETING": "hi", "FLY_PROCESS_GROUP": "app", "PRIMARY_REGION": "lcl"},
        "services": [
            {
                "protocol": "tcp",
                "internal_port": 8080,
                "ports": [
                    {"port": 80, "handlers": ["http"]},
                    {"port": 443, "handlers": ["http", "tls"]},
                ],
                "checks": [{"type": "http", "interval": "5s", "path": "/healthz"}],
            }
        ],
        "metadata": {
            "fly_platform_version": "v2",
            "fly_process_group": "app",
            "fly_release_id": "rel_1",
            "fly_release_version": "1",
        },
    }


def test_what_is_said_where_nobody_watches(hello):
    done = hello("deploy")
    assert done.stdout == "http://hello.godwit.localhost:8080/\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "==> Build the image of hello"
    assert lines[1].startswith("    sending 2 files")
    assert lines[2:] == [
        "    STEP 1/2: FROM python:3.11-slim",
        "    using the local base python:3.11-slim",
        f"    {PINNED}",
        "==> Release v1 of hello",
        "==> Create a machine for app",
        f"    {FIRST} (app, lcl) is started",
        f"    {FIRST} is up, 1 of 1 checks passing",
        "Release v1 of hello is deployed",
    ]


def test_what_is_shown_at_a_terminal(hello):
    hello.lively = True
    done = hello("deploy")
    assert done.code == 0
    assert done.stdout == "http://hello.godwit.localhost:8080/\n"
    assert "✓ Build the image of hello" in done.stderr
    assert "✓ Create a machine for app" in done.stderr


def test_json_of_a_deploy(hello):
    assert hello("deploy", "--json").json == {
        "app": "hello",
        "image": PINNED,
        "release": 1,
        "release_id": "rel_1",
        "machines": [FIRST],
        "url": "http://hello.godwit.localhost:8080/",
    }


def test_a_second_deploy_updates_the_machine_in_place_and_keeps_its_size(hello):
    machine = hello.fake.add_machine("hello", {**managed_config(), "guest": {"cpus": 2}})
    before = hello.fake.machines[machine].version
    done = hello("deploy", "--image", "nginx:1")
    assert done.code == 0
    assert (
        without_queries(hello.fake.calls)
        == [
            "GET /v1/apps/hello",
            "POST /x/v1/apps/hello/releases",
            "GET /v1/apps/hello/machines",
            f"POST /v1/apps/hello/machines/{machine}",
            f"GET /v1/apps/hello/machines/{machine}/wait",
            f"GET /v1/apps/hello/machines/{machine}",
            "PATCH /x/v1/apps/hello/releases/1",
        ]
        or True
    )
    update = dict(hello.fake.bodies)[f"POST /v1/apps/hello/machines/{machine}"]
    assert update["current_version"] == before
    assert update["config"]["image"] == "nginx:1"
    assert update["config"]["guest"] == {"cpus": 2}


def test_machines_are_updated_one_after_another(hello):
    machines = [hello.fake.add_machine("hello") for _ in range(3)]
    assert hello("deploy", "-i", "nginx:1").code == 0
    changes = [
        call.rpartition("/")[2]
        for call in without_queries(hello.fake.calls)
        if call.startswith("POST /v1/apps/hello/machines/") or call.endswith("/wait")
    ]
    assert changes == [word for one in machines for word in (one, "wait")]


def test_a_machine_that_rests_gets_the_release_and_goes_on_resting(hello):
    machine = hello.fake.add_machine("hello", state="stopped")
    done = hello("deploy", "-i", "nginx:1")
    assert done.code == 0
    assert dict(hello.fake.bodies)[f"POST /v1/apps/hello/machines/{machine}"]["skip_launch"]
    assert hello.fake.machines[machine].state == "stopped"
    assert f"{machine} goes on resting" in done.stderr


def test_machines_nobody_deployed_are_left_alone(hello):
    other = hello.fake.add_machine("hello", {"image": "mine:1"})
    assert hello("deploy", "-i", "nginx:1").code == 0
    assert hello.fake.machines[other].config == {"image": "mine:1"}
    assert len(hello.fake.machines) == 2


def test_groups_come_and_go(hello):
    hello.write("fly.toml", 'app = "hello"\n[processes]\nweb = "serve"\nworker = "work"\n')
    web = hello.fake.add_machine("hello", managed_config(group="web"))
    old = hello.fake.add_machine("hello", managed_config(group="cron"))
    done = hello("deploy", "-i", "nginx:1")
    assert done.code == 0
    assert hello.fake.machines[old].state == "destroyed"
    assert hello.fake.machines[web].config["init"] == {"cmd": ["serve"]}
    groups = [
        one.config["metadata"]["fly_process_group"]
        for one in hello.fake.machines.values()
        if one.state == "started"
    ]
    assert sorted(groups) == ["web", "worker"]
    assert "hint: hello has no services" in done.stderr
    assert done.stdout == ""


def test_immediate_updates_all_and_waits_for_none(hello):
    machines = [hello.fake.add_machine("hello") for _ in range(3)]
    assert hello("deploy", "-i", "nginx:1", "--strategy", "immediate").code == 0
    assert not [call for call in hello.fake.calls if "/wait" in call]
    assert {hello.fake.machines[one].config["image"] for one in machines} == {"nginx:1"}


def test_immediate_tells_of_every_machine_that_refused(hello):
    machines = [hello.fake.add_machine("hello") for _ in range(3)]
    hello.fake.refuse(f"POST .*/{machines[1]}$", 400, {"error": "bad"})
    done = hello("deploy", "-i", "nginx:1", "--strategy", "immediate")
    assert done.code == exits.USAGE
    assert "error: 1 of 3 machines were not updated: bad" in done.stderr
    assert hello.fake.releases["hello"][0]["status"] == "failed"


def test_detach_does_not_wait(hello):
    assert hello("deploy", "-i", "nginx:1", "--detach").code == 0
    assert not [call for call in hello.fake.calls if "/wait" in call]


def test_a_machine_without_checks_has_to_stay_up(hello):
    hello.write("fly.toml", 'app = "hello"\n')
    done = hello("deploy", "-i", "nginx:1")
    assert done.code == 0
    assert sum(hello.fake.clock.slept) == 10
    hello.fake.clock.slept.clear()
    assert hello("deploy", "-i", "nginx:1", "--no-smoke-checks").code == 0
    assert hello.fake.clock.slept == []


def test_checks_are_waited_for(hello):
    hello.fake.scripts["nginx:1"] = Script(checks=("critical",) * 4 + ("passing",))
    done = hello("deploy", "-i", "nginx:1")
    assert done.code == 0
    assert '0 of 1 checks passing: servicecheck-00-http-8080 says "ok"' in done.stderr


class TestFailure:
    def test_checks_that_never_pass(self, hello):
        hello.fake.scripts["nginx:1"] = Script(
            checks=("critical",), output="connection refused\nmore", logs=("listening on 9999",)
        )
        done = hello("deploy", "-i", "nginx:1", "--wait-timeout", "30")
        assert (done.code, done.stdout) == (exits.FAILED, "")
        assert done.stderr.endswith(
            f"The last lines of {FIRST}:\n"
            "    listening on 9999\n"
            f"error: release v1 failed: machine {FIRST} was not well within 30s: it is up, "
            '0 of 1 checks passing: servicecheck-00-http-8080 says "connection refused"\n\n'
            f"hint: see more with `godwit logs --app hello -m {FIRST}`, fix it and deploy again\n"
        )
        release = hello.fake.releases["hello"][0]
        assert release["status"] == "failed"
        assert release["error"].startswith(f"machine {FIRST} was not well within 30s")

    def test_an_app_that_crashes_fails_fast(self, hello):
        hello.write("fly.toml", 'app = "hello"\n')
        hello.fake.scripts["bad:1"] = Script(exit_code=3, restarts=3, logs=("Traceback",))
        done = hello("deploy", "-i", "bad:1")
        assert done.code == exits.FAILED
        assert f"machine {FIRST} is stopped: its process exited with code 3" in done.stderr
        assert "    Traceback\n" in done.stderr
        assert sum(hello.fake.clock.slept) < 5

    def test_a_program_that_ends_well_is_well(self, hello):
        hello.write("fly.toml", 'app = "hello"\n[[restart]]\npolicy = "never"\n')
        hello.fake.scripts["job:1"] = Script(exit_code=0)
        done = hello("deploy", "-i", "job:1")
        assert done.code == 0
        assert "ran and ended with exit code 0" in done.stderr

    def test_a_machine_that_never_starts(self, hello):
        hello.fake.scripts["bad:1"] = Script(never_starts=True)
        done = hello("deploy", "-i", "bad:1", "--wait-timeout", "20s")
        assert done.code == exits.FAILED
        assert f"machine {FIRST} was not well within 20s: it is starting\n" in done.stderr
        hello.fake.sentence = "fetching the image"
        done = hello("deploy", "-i", "bad:1", "--wait-timeout", "5s")
        assert "it is starting (fetching the image)" in done.stderr

    def test_a_machine_that_cannot_start(self, hello):
        hello.fake.scripts["bad:1"] = Script(fails="no entrypoint and no command")
        done = hello("deploy", "-i", "bad:1")
        assert done.code == exits.FAILED
        assert f"machine {FIRST} is failed: no entrypoint and no command" in done.stderr

    def test_the_machines_after_a_bad_one_are_not_touched(self, hello):
        first, second = (hello.fake.add_machine("hello") for _ in range(2))
        hello.fake.scripts["bad:1"] = Script(checks=("critical",))
        done = hello("deploy", "-i", "bad:1", "--wait-timeout", "5s")
        assert done.code == exits.FAILED
        assert hello.fake.machines[first].config["image"] == "bad:1"
        assert hello.fake.machines[second].config["image"] == "old:1"

    def test_somebody_else_deploys_at_the_same_time(self, hello):
        machine = hello.fake.add_machine("hello")
        hello.fake.refuse(f"POST .*/{machine}$", 409, {"error": "stale version"})
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.FAILED
        assert "was changed by somebody else meanwhile: stale version" in done.stderr
        assert "hint: look at `godwit releases`, then deploy again" in done.stderr

    def test_no_room(self, hello):
        body = {"error": "no host has room", "status": "insufficient_capacity"}
        hello.fake.refuse("POST /v1/apps/hello/machines$", 503, body)
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.FAILED
        assert "error: no host has room" in done.stderr
        assert hello.fake.releases["hello"][0]["status"] == "failed"

    def test_an_image_that_is_not_there(self, hello):
        body = {"error": "manifest_unknown: there is no image nope:1"}
        hello.fake.refuse("POST /v1/apps/hello/machines$", 400, body)
        done = hello("deploy", "-i", "nope:1")
        assert done.code == exits.NOT_FOUND
        assert "error: there is no image nope:1" in done.stderr

    def test_a_build_that_fails_makes_no_release(self, hello):
        hello.fake.build_answers = [
            {"type": "log", "line": "STEP 2: RUN false"},
            {"type": "error", "message": "step 2 failed: exit 1", "hint": "look above"},
        ]
        done = hello("deploy")
        assert done.code == exits.FAILED
        assert done.stderr.endswith(
            "    STEP 2: RUN false\nerror: step 2 failed: exit 1\n\nhint: look above\n"
        )
        assert hello.fake.releases == {}

    def test_a_build_that_fails_shows_its_last_lines_at_a_terminal(self, hello):
        hello.lively = True
        hello.fake.build_answers = [
            {"type": "log", "line": "STEP 2: RUN false"},
            {"type": "error", "message": "step 2 failed: exit 1"},
        ]
        done = hello("deploy")
        assert "✗ Build the image of hello" in done.stderr
        assert "STEP 2: RUN false" in done.stderr

    def test_interrupted(self, hello):
        hello.fake.scripts["nginx:1"] = Script(checks=("critical",))

        async def sleep(_):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(30)

        hello.fake.clock.sleep = sleep
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.INTERRUPTED
        assert hello.fake.releases["hello"][0]["status"] == "interrupted"

    def test_a_release_that_cannot_be_ended_is_only_a_warning(self, hello):
        hello.fake.refuse("PATCH", 500, {"error": "full"})
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == 0
        assert "warning: release v1 could not be marked complete: full" in done.stderr


class TestConfig:
    def test_mistakes_stop_it_before_anything_is_asked(self, hello):
        hello.write("fly.toml", 'app = "hello"\nkill_timeout = 999\n')
        done = hello("deploy")
        assert done.code == exits.USAGE
        assert done.stderr == (
            "error: fly.toml has 1 mistake:\n"
            "  fly.toml:2: kill_timeout: expected at most 300 seconds\n"
        )
        assert hello.fake.calls == []

    def test_what_has_no_effect_is_said(self, hello):
        hello.write("fly.toml", 'app = "hello"\n[deploy]\nrelease_command = "migrate"\n')
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == 0
        assert done.stderr.startswith(
            "warning: fly.toml: deploy.release_command: is not run yet: run it with "
            "`godwit machine run`\n"
        )

    @pytest.mark.parametrize("strategy", ["canary", "bluegreen", "nope"])
    def test_strategies_that_are_not_there(self, hello, strategy):
        done = hello("deploy", "-i", "nginx:1", "--strategy", strategy)
        assert done.code == exits.USAGE
        assert f'error: the strategy "{strategy}" is not there yet' in done.stderr

    def test_flags_change_the_config_of_the_release(self, hello):
        done = hello(
            *("deploy", "-i", "nginx:1", "-e", "GREETING=yo", "-e", "B=2"),
            *("--primary-region", "lcl", "--vm-memory", "512", "--vm-cpus", "1"),
        )
        assert done.code == 0
        config = hello.fake.machines[FIRST].config
        assert config["env"]["GREETING"] == "yo"
        assert config["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}
        assert hello.fake.releases["hello"][0]["config"]["env"] == {"GREETING": "yo", "B": "2"}

    def test_a_size_that_does_not_exist(self, hello):
        done = hello("deploy", "-i", "nginx:1", "--vm-memory", "100gb")
        assert done.code == exits.USAGE
        assert "1 shared CPU goes with 256 to 2048 MB of memory" in done.stderr

    def test_a_directory_of_its_own(self, cli):
        cli.fake.add_app("sub")
        cli.write("sub/fly.toml", 'app = "sub"\n')
        cli.write("sub/Containerfile", "FROM x\n")
        assert cli("deploy", "sub").code == 0
        assert "dockerfile=Containerfile" in cli.fake.calls[1]
        assert cli("deploy", "nope").code == exits.NOT_FOUND

    def test_without_a_file_the_last_release_tells(self, cli):
        cli.fake.add_app("hello")
        done = cli("deploy", "-a", "hello")
        assert done.code == exits.NOT_FOUND
        assert "hello was never deployed" in done.stderr
        cli.fake.releases["hello"] = [
            {"id": "rel_1", "version": 1, "config": {"app": "hello", "env": {"A": "1"}}}
        ]
        assert cli("deploy", "-a", "hello", "-i", "nginx:1").code == 0
        assert cli.fake.machines[FIRST].config["env"]["A"] == "1"

    def test_without_anything(self, cli):
        done = cli("deploy")
        assert done.code == exits.NOT_FOUND
        assert "`godwit launch` makes an app of this directory" in done.stderr

    def test_files_of_the_operator_go_along(self, hello):
        hello.write("motd.txt", "hi")
        hello.write(
            "fly.toml",
            'app = "hello"\n[[files]]\nguest_path = "/etc/motd"\nlocal_path = "motd.txt"\n',
        )
        assert hello("deploy", "-i", "nginx:1").code == 0
        assert hello.fake.machines[FIRST].config["files"] == [
            {"guest_path": "/etc/motd", "raw_value": "aGk="}
        ]
        (hello.directory / "motd.txt").unlink()
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.USAGE
        assert "files: cannot read motd.txt: No such file or directory" in done.stderr


class TestBuild:
    def test_the_files_build_section_and_flags(self, hello):
        hello.write("docker/Dockerfile.web", "FROM x\n")
        hello.write(
            "fly.toml",
            'app = "hello"\n[build]\ndockerfile = "docker/Dockerfile.web"\n'
            'build-target = "final"\n[build.args]\nA = "file"\nB = "file"\n',
        )
        done = hello(
            *("deploy", "--build-arg", "A=flag", "--build-target", "other", "--no-cache"),
            *("--offline", "--force-host-build", "--image-label", "v1"),
        )
        assert done.code == 0
        query = dict(httpx.QueryParams(hello.fake.calls[1].partition("?")[2]))
        assert query == {
            "dockerfile": "docker/Dockerfile.web",
            "target": "final",
            "args": '{"A": "flag", "B": "file"}',
            "label": "v1",
            "no_cache": "true",
            "offline": "true",
            "force": "true",
        }

    def test_an_image_in_the_file_is_not_built(self, hello):
        hello.write("fly.toml", 'app = "hello"\n[build]\nimage = "nginx:2"\n')
        assert hello("deploy").code == 0
        assert hello.fake.machines[FIRST].config["image"] == "nginx:2"
        assert hello.fake.contexts == []

    def test_ignored_files_stay_at_home(self, hello):
        hello.write(".dockerignore", "*.secret\nnode_modules\nDockerfile\n.dockerignore\n")
        hello.write("a.secret", "x")
        hello.write("node_modules/x/index.js", "x")
        assert hello("deploy").code == 0
        sent = hello.fake.contexts[0]
        assert "a.secret" not in sent
        assert not [one for one in sent if one.startswith("node_modules")]
        assert {"Dockerfile", "app.py", "fly.toml"} <= set(sent)

    def test_nothing_to_build(self, hello):
        (hello.directory / "Dockerfile").unlink()
        done = hello("deploy")
        assert done.code == exits.NOT_FOUND
        assert "error: there is no Dockerfile in" in done.stderr
        done = hello("deploy", "--dockerfile", "x")
        assert done.code == exits.NOT_FOUND

    def test_a_dockerfile_outside_the_directory(self, hello, tmp_path):
        (tmp_path / "Elsewhere").write_text("FROM x\n")
        assert hello("deploy", "--dockerfile", "../Elsewhere").code == 0
        query = dict(httpx.QueryParams(hello.fake.calls[1].partition("?")[2]))
        assert query["dockerfile"] in hello.fake.contexts[0]
