"""Source in, a microVM serving it out: launch, deploy, release, status, logs, mistakes."""

import json
import subprocess
from pathlib import Path

import pytest

from godwit.testing.platform import GODWIT, Platform, eventually

CHECKS = """
[[http_service.checks]]
path = "/healthz"
interval = "2s"
timeout = "20s"
grace_period = "5s"

[checks.alive]
type = "tcp"
port = 8080
interval = "2s"
timeout = "20s"

[checks.self]
type = "exec"
command = ["sh", "-c", "echo up since $(cut -d' ' -f1 /proc/uptime)"]
interval = "10s"
timeout = "20s"
kind = "readiness"
"""


def test_launched_apps_answer_from_their_own_microvm(platform: Platform, launched) -> None:
    seen = set()
    for app in launched.values():
        answer = platform.get(app)
        assert answer.status_code == 200
        assert app in answer.text
        machine = platform.deployed(app)
        assert machine["id"] in answer.text
        seen.add(machine["private_ip"].split(":")[2])
    assert len(seen) == 2, "each organization has a network of its own"


def test_launch_writes_a_config_that_validates(platform: Platform, launched, source: Path) -> None:
    folder = source.with_name("hello-reed")
    assert 'app = "hello-reed"' in (folder / "fly.toml").read_text()
    platform.godwit("config", "validate", cwd=folder)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[build", "fly.toml:2: not TOML"),
        ("app = 'b'", "fly.toml:2: not TOML"),
        ("kill_timeout = 'soon'", "fly.toml:2: kill_timeout: expected a duration"),
        (
            "[http_service]\ninternal_port = 'x'",
            "fly.toml:3: http_service.internal_port: expected",
        ),
        ("[[services]]\ninternal_port = 1\nprotocol = 'x'", "fly.toml:4: services[0].protocol"),
        ("[[vm]]\ncpus = 3", "fly.toml:2: vm[0]: shared CPUs come in"),
        ("[checks.up]\nport = 1\ntype = 'ping'", "fly.toml:4: checks.up.type: expected"),
        ("[deploy]\nstrategy = 'fast'", "fly.toml:3: deploy.strategy: expected one of"),
        (
            "[processes]\nweb = 'x'\n[http_service]\ninternal_port = 80\nprocesses = ['wbe']",
            "fly.toml:6: http_service.processes: there is no process group",
        ),
    ],
)
def test_each_kind_of_mistake_in_a_config_is_told_with_its_line_and_exit_code(
    platform: Platform, tmp_path: Path, text: str, line: str
) -> None:
    (tmp_path / "fly.toml").write_text(f"app = 'a'\n{text}\n")
    assert line in platform.godwit("config", "validate", cwd=tmp_path, expect=2)
    assert line in platform.godwit("deploy", cwd=tmp_path, expect=2)


def test_status_and_releases_tell_what_runs(platform: Platform, launched) -> None:
    status = platform.json("status", "--app", "hello-reed")
    assert [m["state"] for m in status["machines"]] == ["started"]
    releases = platform.json("releases", "--app", "hello-reed")
    assert [(r["version"], r["status"]) for r in releases] == [(1, "complete")]


def test_log_lines_of_the_app_are_there(platform: Platform, launched) -> None:
    platform.get("hello-reed", "/marker-4711")
    eventually(
        lambda: "marker-4711" in platform.godwit("logs", "--app", "hello-reed", "--no-tail")
    )


def test_log_lines_are_followed_as_they_come(platform: Platform, launched, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    with shown.open("w") as output:
        following = subprocess.Popen(
            [GODWIT, "logs", "--app", "hello-reed", "-f"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=platform.environ,
        )
    try:
        eventually(shown.read_text)
        assert "marker-4713" not in shown.read_text()
        platform.get("hello-reed", "/marker-4713")
        eventually(lambda: "marker-4713" in shown.read_text())
    finally:
        following.kill()
        following.wait()


def test_a_second_deploy_replaces_the_first_in_place(
    platform: Platform, launched, source: Path
) -> None:
    folder = source.with_name("hello-marsh")
    before = platform.deployed("hello-marsh")
    program = next(folder.glob("*.py"))
    program.write_text(program.read_text().replace("Hello", "Salut"))
    platform.godwit("deploy", "--offline", "--force-host-build", cwd=folder)
    assert "Salut" in platform.get("hello-marsh").text
    after = platform.deployed("hello-marsh")
    assert after["id"] == before["id"]
    assert after["instance_id"] != before["instance_id"]
    assert [r["version"] for r in platform.json("releases", "--app", "hello-marsh")] == [2, 1]


def test_a_build_is_refused_beside_other_organizations_unless_forced(
    platform: Platform, launched, source: Path
) -> None:
    said = platform.godwit("deploy", "--offline", cwd=source.with_name("hello-reed"), expect=1)
    assert "organization" in said
    assert "--force-host-build" in said


def test_a_deploy_that_cannot_start_fails_and_says_why(
    platform: Platform, launched, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text('FROM python:3.11-slim\nCMD ["/no/such/program"]\n')
    (tmp_path / "fly.toml").write_text('app = "hello-broken"\n')
    platform.godwit("apps", "create", "hello-broken", "--org", "reed")
    said = platform.godwit(
        "deploy",
        "--offline",
        "--force-host-build",
        "--wait-timeout",
        "240s",
        cwd=tmp_path,
        expect=1,
    )
    assert "/no/such/program" in said
    assert platform.json("releases", "--app", "hello-broken")[0]["status"] == "failed"


def test_a_build_that_fails_shows_its_output(platform: Platform, launched, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM python:3.11-slim\nRUN echo before && echo oh-no-4712 >&2 && exit 7\n"
    )
    (tmp_path / "fly.toml").write_text('app = "hello-broken"\n')
    said = platform.godwit("deploy", "--offline", "--force-host-build", cwd=tmp_path, expect=1)
    assert "oh-no-4712" in said


def test_an_unknown_host_name_gets_a_page_that_says_so(platform: Platform, launched) -> None:
    answer = platform.get("nobody")
    assert answer.status_code == 404
    assert "nobody" in answer.text


def test_http2_reaches_the_app(platform: Platform, launched) -> None:
    from godwit.testing.platform import sh

    done = sh(
        "curl",
        "-s",
        "--http2-prior-knowledge",
        "-H",
        "Host: hello-reed.godwit.localhost",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code}",
        "http://127.0.0.1:8080/",
    )
    assert done.stdout == "2 200"


def test_json_goes_to_stdout_and_talk_to_stderr(platform: Platform, launched) -> None:
    for command in (["apps", "list"], ["orgs", "list"], ["machine", "list", "-a", "hello-reed"]):
        assert json.loads(platform.godwit(*command, "--json"))


def test_an_image_is_deployed_and_its_checks_pass(
    platform: Platform, launched, source: Path
) -> None:
    """Its checks stay: what the agent's death does to a checked machine is seen later."""
    folder = source.with_name("hello-reed")
    with (folder / "fly.toml").open("a") as file:
        file.write(CHECKS)
    image = platform.deployed("hello-reed")["config"]["image"]
    platform.godwit("deploy", "--image", image, cwd=folder)
    assert platform.json("releases", "--app", "hello-reed")[0]["version"] == 2

    def statuses() -> list[str]:
        return [one["status"] for one in platform.json("checks", "list", "-a", "hello-reed")]

    eventually(lambda: statuses() == ["passing"] * 3)
    (own,) = platform.json("checks", "list", "-a", "hello-reed", "--check-name", "self")
    assert own["output"].startswith("up since ")
    assert platform.get("hello-reed").status_code == 200
