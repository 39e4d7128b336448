"""Parts are killed while a client sends requests to a running machine: no request fails."""

import contextlib
import itertools
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from godwit.host import running
from godwit.testing.platform import Platform, eventually


class Client:
    """Sends requests one after another until told to stop; remembers what failed."""

    def __init__(self, platform: Platform, app: str) -> None:
        self.platform, self.app = platform, app
        self.sent, self.failed = 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.sent >= 3)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        end = time.monotonic() + 1_000
        while not self._stop.is_set() and time.monotonic() < end:
            try:
                answer = self.platform.get(self.app)
                if answer.status_code != 200:
                    self.failed.append(answer.text)
            except (OSError, httpx.HTTPError) as error:
                self.failed.append(repr(error))
            self.sent += 1

    def more(self, count: int = 5) -> None:
        """Return after that many further requests."""
        target = self.sent + count
        eventually(lambda: self.sent >= target)


def back(platform: Platform, name: str, former) -> None:
    """Return once a killed component runs again."""

    def running() -> bool:
        try:
            return platform.component(name) != former
        except AssertionError:
            return False

    eventually(running)


def api_answers(platform: Platform) -> bool:
    """Tell whether the API tells of the app's machine again."""
    with platform.api as api, contextlib.suppress(httpx.HTTPError):
        return api.get("/v1/apps/hello-reed/machines").status_code == 200
    return False


@pytest.mark.parametrize("name", ["control", "bus", "registry", "agent", "dns"])
def test_killing_a_component_fails_no_request(platform: Platform, launched, name: str) -> None:
    with Client(platform, "hello-reed") as client:
        former = platform.kill(name)
        client.more()
        back(platform, name, former)
        client.more()
        eventually(lambda: api_answers(platform))
        client.more()
    assert client.failed == []
    assert client.sent > 10


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold a database, as a process that hangs in the middle of a write does."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=20)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize("database", ["control/control.db", "agent/agent.db"])
def test_a_database_that_hangs_fails_no_request_and_is_said(
    platform: Platform, launched, database: str
) -> None:
    machine = platform.deployed("hello-reed")["id"]
    metadata = f"/v1/apps/hello-reed/machines/{machine}/metadata"
    attempts = itertools.count()

    def change(api: httpx.Client) -> int:
        wanted = {"metadata": {"held": f"{database} {next(attempts)}"}}
        return api.patch(metadata, json=wanted).status_code

    with Client(platform, "hello-reed") as client, platform.api as api:
        with locked(platform.data / database):
            end, answers = time.monotonic() + 12, []
            while time.monotonic() < end:
                answers.append(change(api))
                answers.append(api.get("/v1/apps/hello-reed/machines").status_code)
            client.more()
        assert 503 in answers
        assert set(answers) <= {200, 408, 503}
        eventually(lambda: change(api) == 204)
        assert api.get(metadata).json()["held"].startswith(database)
        client.more()
    assert client.failed == []


def test_the_agent_adopts_a_machine_that_exited_meanwhile(platform: Platform, launched) -> None:
    existing = platform.deployed("hello-reed")
    program = (
        "import os, time\nprint('before', flush=True)\n"
        "while not os.path.exists('/go'): time.sleep(0.1)\n"
        "print('meanwhile', flush=True); os._exit(9)"
    )
    with platform.api as api:
        config = {
            "image": existing["config"]["image"],
            "init": {"exec": ["python3", "-c", program]},
            "restart": {"policy": "no"},
        }
        answer = api.post("/v1/apps/hello-reed/machines", json={"config": config})
        assert answer.status_code == 200, answer.text
        machine = answer.json()["id"]
        path = f"/v1/apps/hello-reed/machines/{machine}"
        platform.wait("hello-reed", machine, "started")
        # The program ends a second after it was told to, when the agent is already dead.
        platform.exec("hello-reed", machine, "sh", "-c", "(sleep 1; touch /go) >/dev/null 2>&1 &")
        former = platform.kill("agent")
        back(platform, "agent", former)
        eventually(lambda: api.get(path).json().get("state") == "stopped")
        events = api.get(path).json()["events"]
        exit_event = next(e for e in events if e["type"] == "exit")["request"]["exit_event"]
        assert exit_event["exit_code"] == 9
        said = platform.godwit("logs", "-a", "hello-reed", "--machine", machine, "--no-tail")
        assert "before" in said
        assert "meanwhile" in said
        api.delete(path, params={"force": "true"})


def test_a_killed_vmm_is_seen_and_the_machine_comes_back(platform: Platform, launched) -> None:
    machine = platform.deployed("hello-marsh")
    path = f"/v1/apps/hello-marsh/machines/{machine['id']}"
    with platform.api as api:

        def exits() -> list[dict]:
            return [e for e in api.get(path).json()["events"] if e["type"] == "exit"]

        former = [event["id"] for event in exits()]

        def killed() -> list[dict]:
            return [event for event in exits() if event["id"] not in former]

        os.kill(platform.vmm_pid(machine["id"]), signal.SIGKILL)
        (ended,) = eventually(killed)
        assert not ended["request"]["exit_event"]["requested_stop"]
    eventually(lambda: platform.get("hello-marsh").status_code == 200)


def test_a_killed_supervisor_costs_no_request_and_the_next_up_takes_over(
    platform: Platform, launched
) -> None:
    former = running.read(platform.run / "host.json")
    assert former is not None
    with Client(platform, "hello-reed") as client:
        former.signal(9)
        assert former.wait(60)
        client.more()
    assert client.failed == []
    platform.godwit("up", "-d", timeout=420)
    assert running.read(platform.run / "host.json") not in (None, former)
    assert platform.get("hello-reed").status_code == 200


def test_machines_that_ran_come_back_after_down_and_up(platform: Platform, launched) -> None:
    def started() -> set[str]:
        return {m["id"] for m in platform.machines("hello-reed") if m["state"] == "started"}

    before = started()
    platform.godwit("down", timeout=260)
    assert not platform.run.exists()
    platform.godwit("up", "-d", timeout=420)
    eventually(lambda: platform.get("hello-reed").status_code == 200)
    eventually(lambda: started() == before)
