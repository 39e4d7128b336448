import base64
import os
import signal

import httpx
import pytest

from godwit.cli import exits
from godwit.cli.rollout import inline, names
from godwit.testing.fake_machine import Script, managed_config

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


def ordered(cli):
    """Return what the last deploy was asked with."""
    bodies = [body for target, body in cli.fake.bodies if target.endswith("/deploys")]
    return bodies[-1]


def test_a_first_deploy_call_by_call(hello):
    done = hello("deploy")
    assert done.code == 0
    assert hello.fake.calls == [
        "GET /v1/apps/hello",
        "POST /x/v1/apps/hello/builds?dockerfile=Dockerfile",
        "POST /x/v1/apps/hello/deploys",
        "GET /x/v1/apps/hello/deploys/dep_1?after=0&wait_s=20",
        "GET /x/v1/apps/hello/deploys/dep_1?after=3&wait_s=20",
    ]
    assert hello.fake.contexts == [["Dockerfile", "app.py"]]
    order = ordered(hello)
    assert (order["image"], order["kind"]) == (PINNED, "deploy")
    assert order["definition"]["env"] == {"GREETING": "hi"}
    assert order["options"] == {
        "description": "deploy",
        "skip_release_command": False,
        "smoke_checks": True,
        "ha": True,
        "update_only": False,
    }
    assert hello.fake.machines[FIRST].config["image"] == PINNED


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
        "==> Group app",
        f"    {FIRST} (app) is up",
        "Release v1 of hello is deployed",
    ]


def test_what_is_shown_at_a_terminal(hello):
    hello.lively = True
    done = hello("deploy")
    assert done.code == 0
    assert done.stdout == "http://hello.godwit.localhost:8080/\n"
    assert "✓ Build the image of hello" in done.stderr
    assert "✓ Group app" in done.stderr
    assert f"    {FIRST} (app) is up" in done.stderr


def test_json_of_a_deploy(hello):
    assert hello("deploy", "--json").json == {
        "app": "hello",
        "deploy": "dep_1",
        "status": "complete",
        "error": "",
        "image": PINNED,
        "release": 1,
        "release_id": "rel_1",
        "machines": [FIRST],
        "url": "http://hello.godwit.localhost:8080/",
    }


def test_groups_come_and_go(hello):
    hello.write("fly.toml", 'app = "hello"\n[processes]\nweb = "serve"\nworker = "work"\n')
    hello.fake.add_machine("hello", managed_config(group="web"))
    old = hello.fake.add_machine("hello", managed_config(group="cron"))
    done = hello("deploy", "-i", "nginx:1")
    assert done.code == 0
    assert f"    {old} (cron) is destroyed" in done.stderr
    assert "hint: hello has no services" in done.stderr
    assert done.stdout == ""


def test_every_flag_is_told_to_the_platform(hello):
    done = hello(
        *("deploy", "-i", "nginx:1", "--strategy", "bluegreen", "--max-unavailable", "0.5"),
        *("--max-concurrent", "4", "--wait-timeout", "2m", "--release-command-timeout", "none"),
        *("--skip-release-command", "--no-smoke-checks", "--drain-timeout", "30"),
        *("--no-auto-rollback", "--signal", "SIGTERM", "--no-ha", "--update-only"),
        *("--regions", "lcl,fra", "--only-regions", "ams", "--exclude-regions", "iad"),
        *("--only-machines", "a, b", "--exclude-machines", "c", "--process-groups", "app,web"),
    )
    assert done.code == 0
    assert ordered(hello)["options"] == {
        "description": "deploy of nginx:1",
        "strategy": "bluegreen",
        "max_unavailable": 0.5,
        "max_concurrent": 4,
        "wait_timeout_s": 120.0,
        "release_command_timeout_s": 0.0,
        "skip_release_command": True,
        "smoke_checks": False,
        "drain_timeout_s": 30.0,
        "auto_rollback": False,
        "signal": "SIGTERM",
        "ha": False,
        "update_only": True,
        "regions": ["lcl", "fra", "ams"],
        "exclude_regions": ["iad"],
        "only_machines": ["a", "b"],
        "exclude_machines": ["c"],
        "process_groups": ["app", "web"],
    }


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-unavailable", "0"), "--max-unavailable: expected more than 0, got 0"),
        (("--wait-timeout", "soon"), "--wait-timeout: expected a duration"),
        (("--release-command-timeout", "x"), "--release-command-timeout: expected a duration"),
        (("--build-context-warn-size", "x"), "--build-context-warn-size: expected a memory size"),
        (("--plan", "--cancel"), "--plan and --cancel: one of them"),
        (("--file-local", "x"), "--file-local x: expected NAME=VALUE"),
    ],
)
def test_flags_that_mean_nothing_are_refused_before_anything_is_asked(hello, flags, said):
    done = hello("deploy", *flags)
    assert done.code == exits.USAGE
    assert f"error: {said}" in done.stderr
    assert hello.fake.calls == []


@pytest.mark.parametrize("command", [("deploy",), ("deploy", "--plan")])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--no-public-ips",), "--no-public-ips: an app with services is public here, by its"),
        (("--volume-initial-size", "x"), "--volume-initial-size: expected a volume size"),
    ],
)
def test_what_a_first_deploy_cannot_provide_is_refused_before_anything_is_built(
    hello, command, flags, said
):
    done = hello(*command, *flags)
    assert done.code == exits.USAGE
    assert f"error: {said}" in done.stderr
    assert hello.fake.calls == []


def test_an_app_without_services_is_not_public_anyway(hello):
    hello.write("fly.toml", 'app = "hello"\n')
    assert hello("deploy", "-i", "nginx:1", "--no-public-ips").code == 0


def test_the_size_of_volumes_that_are_not_there_has_no_effect_and_that_is_said(hello):
    done = hello("deploy", "-i", "nginx:1", "--volume-initial-size", "10gb")
    assert done.code == 0
    assert "--volume-initial-size has no effect: there are no volumes yet" in done.stderr


class TestSpellings:
    def test_flags_with_values_as_scripts_write_them(self, hello):
        done = hello(
            *("deploy", "-i", "nginx:1", "--ha=false", "--smoke-checks=true"),
            *("--auto-rollback=false", "--update-only=true", "--skip-release-command=false"),
            "--dns-checks=false",
        )
        assert done.code == 0
        options = ordered(hello)["options"]
        assert (options["ha"], options["smoke_checks"]) == (False, True)
        assert (options["auto_rollback"], options["update_only"]) == (False, True)
        assert options["skip_release_command"] is False

    def test_choices_among_builders_that_are_not_here(self, hello):
        done = hello(
            *("deploy", "--remote-only", "--depot=false", "--image", "nginx:1"),
            *("--depot-scope", "app", "--wg=false", "--now", "--lease-timeout", "13s"),
        )
        assert done.code == 0
        assert done.stderr.splitlines()[0] == (
            "(--remote-only, --depot, --depot-scope, --wg, --now, --lease-timeout: nothing to "
            "choose here)"
        )

    def test_the_apps_name_is_looked_for_unless_that_is_not_wanted(self, hello, monkeypatch):
        hello.environ["GODWIT_APPS_DOMAIN"] = "apps.example.org"
        asked = []

        async def has_address(hostname):
            asked.append(hostname)
            return False

        monkeypatch.setattr(names, "has_address", has_address)
        assert hello("deploy", "-i", "nginx:1", "--dns-checks=false").code == 0
        assert asked == []
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == 0
        assert asked == ["hello.apps.example.org"]
        assert "hello.apps.example.org has no address in the DNS" in done.stderr


class TestModes:
    def test_detach_leaves_once_it_has_begun(self, hello):
        hello.fake.deploys.held = 10
        done = hello("deploy", "-i", "nginx:1", "--detach")
        assert (done.code, done.stdout) == (0, "dep_1\n")
        assert "Release v1 of hello is being deployed" in done.stderr
        assert "hint: follow it with `godwit deploy --follow --app hello`" in done.stderr
        assert not [call for call in hello.fake.calls if "/deploys/" in call]
        assert hello.fake.releases["hello"][0]["status"] == "running"

    def test_follow_goes_on_with_what_runs(self, hello):
        hello.fake.deploys.held = 2
        hello("deploy", "-i", "nginx:1", "--detach")
        done = hello("deploy", "--follow")
        assert (done.code, done.stdout) == (0, "http://hello.godwit.localhost:8080/\n")
        assert f"    {FIRST} (app) is up" in done.stderr
        done = hello("deploy", "--follow")
        assert done.code == exits.NOT_FOUND
        assert "error: no deploy of hello is under way" in done.stderr

    def test_cancel_has_what_runs_go_back(self, hello):
        hello.fake.deploys.held = 100
        hello("deploy", "-i", "nginx:1", "--detach")
        done = hello("deploy", "--cancel")
        assert done.code == 0
        assert "Release v1 of hello is being cancelled" in done.stderr
        assert hello.fake.releases["hello"][0]["status"] == "interrupted"
        assert hello("deploy", "--cancel").code == exits.NOT_FOUND

    def test_a_second_deploy_is_told_who_holds_the_lock(self, hello):
        hello.fake.deploys.held = 100
        hello("deploy", "-i", "nginx:1", "--detach")
        done = hello("deploy", "-i", "nginx:2")
        assert done.code == exits.FAILED
        assert "error: app 'hello' is being deployed: v1 by token:1" in done.stderr
        assert "godwit deploy --cancel" in done.stderr

    @pytest.mark.parametrize(
        "flags", [("--wait-lock",), ("--wait-lock", "5m"), ("--wait-lock=90",)]
    )
    def test_a_second_deploy_waits_for_the_lock(self, hello, flags):
        hello.fake.deploys.held = 3
        hello("deploy", "-i", "nginx:1", "--detach")
        done = hello("deploy", *flags, "-i", "nginx:2")
        assert done.code == 0
        assert "==> Wait for release v1, deployed by token:1" in done.stderr
        assert [one["status"] for one in hello.fake.releases["hello"]] == ["complete"] * 2

    def test_waiting_for_the_lock_has_an_end(self, hello):
        hello.fake.deploys.held = 10**9
        hello("deploy", "-i", "nginx:1", "--detach")
        clock = hello.fake.clock
        monotonic = clock.monotonic

        def tired():
            clock.at_s += 1
            return monotonic()

        clock.monotonic = tired
        done = hello("deploy", "--wait-lock", "30s", "-i", "nginx:2")
        assert done.code == exits.FAILED
        assert "is being deployed" in done.stderr

    def test_a_plan_is_shown_and_nothing_done(self, hello):
        hello.fake.add_machine("hello")
        done = hello("deploy", "--plan", "-i", "nginx:1")
        assert (done.code, done.stdout) == (0, "1 machine of app: updated in place\n")
        assert hello.fake.releases == {}
        plan = hello("deploy", "--plan", "-i", "nginx:1", "--json").json
        assert plan["groups"][0]["update"] == [
            {"machine_id": FIRST, "region": "lcl", "start": True}
        ]

    def test_a_plan_needs_no_build_where_there_was_one(self, hello):
        hello.fake.releases["hello"] = [{"id": "rel_1", "version": 1, "image": "old:1"}]
        assert hello("deploy", "--plan").code == 0
        assert hello.fake.contexts == []
        assert ordered(hello)["image"] == "old:1"

    def test_build_only(self, hello):
        done = hello("deploy", "--build-only")
        assert (done.code, done.stdout) == (0, PINNED + "\n")
        assert hello.fake.deploys.known == []


@pytest.fixture
def interruptible():
    """Take SIGINT as a terminal's programs do: a shell has those in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestFailure:
    def test_a_release_that_fails(self, hello):
        hello.fake.scripts["bad:1"] = Script(fails="no entrypoint and no command")
        done = hello("deploy", "-i", "bad:1")
        assert (done.code, done.stdout) == (exits.FAILED, "")
        assert done.stderr.endswith(
            f"    error: {FIRST} (app) is failed: no entrypoint and no command\n"
            f"error: release v1 failed: machine {FIRST} is failed: no entrypoint and no command; "
            "rolled back\n\n"
            "hint: see `godwit logs --app hello` and `godwit releases show 1 --app hello`, fix it "
            "and deploy again\n"
        )
        assert hello.fake.releases["hello"][0]["status"] == "failed"

    def test_interrupted_the_deploy_goes_on(self, hello, interruptible):
        hello.fake.deploys.held = 1_000
        answer = hello.fake.deploys.get

        def interrupting(*words):
            hello.fake.deploys.get = answer
            os.kill(os.getpid(), signal.SIGINT)
            return answer(*words)

        hello.fake.deploys.get = interrupting
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.INTERRUPTED
        assert (
            "the deploy of v1 goes on without this terminal: follow it with `godwit deploy "
            "--follow --app hello`, cancel it with `godwit deploy --cancel --app hello`"
        ) in done.stderr
        assert hello.fake.releases["hello"][0]["status"] == "running"

    def test_a_platform_that_starts_anew_is_asked_again(self, hello):
        hello.fake.refuse("GET .*/deploys/dep_1", 503, {"error": "not now"}, times=9)
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == 0
        assert done.stderr.count("the platform does not answer; asking again") == 1

    def test_a_platform_that_stays_away_is_told_with_how_to_go_on(self, hello):
        hello.fake.refuse("GET .*/deploys/dep_1", 503, {"error": "not now"}, times=10_000)
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.UNREACHABLE
        assert "not now; the deploy of v1 goes on without this terminal" in done.stderr

    def test_an_image_that_is_not_there(self, hello):
        body = {"error": "manifest_unknown: there is no image nope:1"}
        hello.fake.refuse("POST /x/v1/apps/hello/deploys$", 400, body)
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
        hello.write("fly.toml", 'app = "hello"\n[metrics]\nport = 9091\n')
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == 0
        assert done.stderr.startswith("warning: fly.toml: metrics: nothing collects metrics yet\n")

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
        assert ordered(hello)["definition"]["files"] == [
            {"guest_path": "/etc/motd", "raw_value": "aGk="}
        ]
        (hello.directory / "motd.txt").unlink()
        done = hello("deploy", "-i", "nginx:1")
        assert done.code == exits.USAGE
        assert "error: fly.toml: files[0].local_path: cannot read " in done.stderr
        assert "motd.txt: No such file or directory" in done.stderr

    def test_files_of_flags_beat_those_of_the_file(self, hello):
        hello.write("sub/a.bin", "hi")
        hello.write(
            "fly.toml",
            'app = "hello"\n[[files]]\nguest_path = "/a"\nraw_value = "eA=="\n'
            '[[files]]\nguest_path = "/z"\nraw_value = "eA=="\n',
        )
        done = hello(
            *("deploy", "-i", "nginx:1", "--file-local", "/a=sub/a.bin"),
            *("--file-literal", "/b=text=1", "--file-secret", "/c=TOKEN"),
        )
        assert done.code == 0
        assert ordered(hello)["definition"]["files"] == [
            {"guest_path": "/z", "raw_value": "eA=="},
            {"guest_path": "/a", "raw_value": "aGk="},
            {"guest_path": "/b", "raw_value": base64.b64encode(b"text=1").decode()},
            {"guest_path": "/c", "secret_name": "TOKEN"},
        ]

    def test_files_that_are_too_large_belong_into_the_image(self, hello):
        hello.write("big", "x" * (inline.MOST_BYTES + 1))
        done = hello("deploy", "-i", "nginx:1", "--file-local", "/big=big")
        assert done.code == exits.USAGE
        assert "have more than 256 KB together" in done.stderr
        assert hello.fake.calls == []

    def test_a_raw_machine_config_beside_the_file(self, hello):
        hello.write("raw.json", '{"schedule": "daily"}')
        hello.write("fly.toml", 'app = "hello"\nmachine_config = "raw.json"\n')
        assert hello("deploy", "-i", "nginx:1").code == 0
        assert ordered(hello)["definition"]["machine_config"] == '{"schedule": "daily"}'
        for wrong in ("[1]", "{"):
            hello.write("raw.json", wrong)
            done = hello("deploy", "-i", "nginx:1")
            assert done.code == exits.USAGE
            assert "error: machine_config: raw.json: " in done.stderr


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

    def test_a_context_that_is_larger_than_wanted(self, hello):
        hello.write("big.bin", "x" * 2_000_000)
        done = hello("deploy", "--build-context-warn-size", "1mb")
        assert (
            "the build context has 2.0 MB; the largest parts are big.bin (2.0 MB)" in done.stderr
        )

    def test_images_built_by_ci_tell_their_origin(self, hello):
        hello.environ |= {"GITHUB_ACTIONS": "true", "GITHUB_SHA": "abc", "GITHUB_ACTION": ""}
        assert hello("deploy", "--label", "a=b").code == 0
        query = dict(httpx.QueryParams(hello.fake.calls[1].partition("?")[2]))
        assert query["labels"] == '{"GH_SHA": "abc", "a": "b"}'
