"""An app of two process groups: its machines, names and services, scaled and changed by CLI."""

import json
from pathlib import Path

import pytest

from godwit.testing.platform import Platform, eventually

APP = "crew"
CONFIG = f"""\
app = "{APP}"

[processes]
web = ""
worker = "sh -c 'echo ready to work; sleep 100000'"

[http_service]
internal_port = 8080
processes = ["web"]

[checks.alive]
type = "tcp"
port = 8080
interval = "2s"
timeout = "2s"
processes = ["web"]

[[vm]]
memory = "512mb"
processes = ["worker"]

[[restart]]
policy = "never"
processes = ["worker"]
"""
RESOLVE = (
    "import socket, sys\n"
    "try: found = sorted({one[4][0] for one in socket.getaddrinfo(sys.argv[1], 80)})\n"
    "except OSError: found = []\n"
    "print(','.join(found))"
)


class Crew:
    """The app, used as its owner does."""

    def __init__(self, platform: Platform, folder: Path, image: str) -> None:
        self.platform, self.folder, self.image = platform, folder, image

    def godwit(self, *argv: str) -> str:
        return self.platform.godwit(*argv, cwd=self.folder)

    def json(self, *argv: str):
        return self.platform.json(*argv, cwd=self.folder)

    def deploy(self) -> None:
        self.godwit("deploy", "--image", self.image, "--no-smoke-checks")

    def running(self, group: str) -> list[dict]:
        return [
            machine
            for machine in self.platform.machines(APP)
            if machine["config"].get("metadata", {}).get("fly_process_group") == group
            and machine["state"] == "started"
        ]

    def resolved(self, machine: str, name: str) -> str:
        done = self.platform.exec(APP, machine, "python3", "-c", RESOLVE, name)
        return str(done["stdout"]).strip()


@pytest.fixture(scope="module")
def crew(platform: Platform, launched, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(APP)
    (folder / "fly.toml").write_text(CONFIG)
    platform.godwit("apps", "create", APP, "--org", "reed")
    image = platform.deployed("hello-reed")["config"]["image"]
    made = Crew(platform, folder, image)
    made.deploy()
    yield made
    platform.godwit("apps", "destroy", APP, "--yes")


def test_groups_are_scaled_and_found_by_their_names(crew: Crew) -> None:
    crew.godwit("scale", "count", "web=1", "worker=2", "--yes")
    shown = {one["group"]: one for one in crew.json("scale", "show")}
    assert {group: (one["count"], one["memory_mb"]) for group, one in shown.items()} == {
        "web": (1, 256),
        "worker": (2, 512),
    }
    eventually(lambda: len(crew.running("worker")) == 2)
    (web,), workers = crew.running("web"), crew.running("worker")
    for name, machines in (("web", [web]), ("worker", workers)):
        expected = ",".join(sorted(one["private_ip"] for one in machines))
        eventually(
            lambda name=name, expected=expected: (
                crew.resolved(web["id"], f"{name}.process.{APP}.internal") == expected
            )
        )
    assert crew.resolved(web["id"], f"nobody.process.{APP}.internal") == ""
    listed = {one["machine"]: one["ip"] for one in crew.json("ips", "private")}
    assert {one["id"]: one["private_ip"] for one in workers}.items() <= listed.items()


def test_each_group_has_its_own_command_size_checks_and_services(crew: Crew) -> None:
    (web,), (worker, *_) = crew.running("web"), crew.running("worker")
    said = crew.platform.exec(APP, worker["id"], "sh", "-c", "cat /proc/*/cmdline")["stdout"]
    assert "ready to work" in said
    assert worker["config"]["restart"] == {"policy": "no"}
    assert "services" not in worker["config"]
    assert "checks" not in worker["config"]
    for machine, group, memory in ((web, "web", "256"), (worker, "worker", "512")):
        told = crew.platform.exec(APP, machine["id"], "env")["stdout"]
        assert f"FLY_PROCESS_GROUP={group}\n" in told
        assert f"FLY_VM_MEMORY_MB={memory}\n" in told
    answers = {crew.platform.get(APP).text for _ in range(6)}
    assert len(answers) == 1
    assert web["id"] in answers.pop()
    ports = {one["port"]: one for one in crew.json("services", "list")}
    assert (ports["80"]["groups"], ports["80"]["machines"]) == (["web"], 1)
    shown = {one["group"] for one in crew.json("image", "show")}
    assert shown == {"web", "worker"}


def test_a_machine_is_copied_changed_and_moved_to_another_group(crew: Crew) -> None:
    first = crew.running("worker")[0]["id"]
    copy = crew.godwit("machine", "clone", first, "--name", "third").strip()
    assert {one["group"]: one["count"] for one in crew.json("scale", "show")}["worker"] == 3
    crew.godwit("machine", "update", "third", "--env", "SHIFT=night", "--yes")
    assert "SHIFT=night\n" in crew.platform.exec(APP, copy, "env")["stdout"]
    crew.godwit("machine", "metadata", "set", "third", "fly_process_group=web")
    crew.deploy()
    moved = crew.json("machine", "status", "third")
    assert moved["config"]["metadata"]["fly_process_group"] == "web"
    assert moved["config"]["services"]
    assert "FLY_PROCESS_GROUP=web\n" in crew.platform.exec(APP, copy, "env")["stdout"]
    eventually(lambda: any(copy in crew.platform.get(APP).text for _ in range(4)))
    crew.godwit("scale", "count", "web=-1", "worker=-1", "--yes")
    assert {one["group"]: one["count"] for one in crew.json("scale", "show")} == {
        "web": 1,
        "worker": 1,
    }


def test_one_off_machines_run_beside_the_groups(crew: Crew) -> None:
    line = "sh -c 'echo one-off-4718; exit 3'"
    one = crew.godwit("machine", "run", crew.image, "--rm", "--command", line).strip()
    crew.godwit("machine", "wait", one, "--state", "destroyed", "--wait-timeout", "5m")
    eventually(lambda: "one-off-4718" in crew.godwit("logs", "--machine", one, "--no-tail"))
    events = crew.json("machine", "events", one)
    ended = next(event for event in events if event["type"] == "exit")
    assert ended["request"]["exit_event"]["exit_code"] == 3
    assert one not in crew.godwit("machine", "list", "--quiet")
    nightly = crew.godwit(
        "machine", "create", crew.image, "--schedule", "daily", "--command", "true"
    ).strip()
    rows = {row.split()[0]: row for row in crew.godwit("machine", "list").splitlines()}
    assert " daily " in rows[nightly]
    assert {one["group"] for one in crew.json("scale", "show")} == {"web", "worker"}
    assert json.loads(crew.godwit("machine", "status", nightly, "--json"))["state"] == "stopped"
