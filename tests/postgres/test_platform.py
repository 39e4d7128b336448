"""The whole platform with its rows in PostgreSQL: deploys, secrets, outages, two control processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from godwit.base import settings
from godwit.cli import exits
from godwit.testing import postgres
from godwit.testing.loopback import free_port
from godwit.testing.platform import ROOT, Platform, eventually
from tests.e2e.test_deploys_survive import APP, Load, begin, ended, look, second_machine

AWAY = "the control database does not answer"


@pytest.fixture(scope="module", autouse=True)
def launched(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Launch the example from source; return its folder."""
    folder = tmp_path_factory.mktemp("src") / "hello"
    shutil.copytree(ROOT / "examples" / "hello", folder)
    launch = ("launch", "--name", APP, "--org", "reed", "--yes", "--offline")
    platform.godwit(*launch, "--force-host-build", "--no-ha", cwd=folder, timeout=400)
    assert platform.get(APP).status_code == 200
    return folder


def test_everything_is_in_postgresql_and_nothing_beside_it(
    platform: Platform, server: postgres.Server, database: str
) -> None:
    assert server.execute("SELECT name FROM apps", database) == [(APP,)]
    assert server.execute("SELECT status FROM releases", database) == [("complete",)]
    assert list((platform.data / "control").glob("*.db*")) == []


def test_secrets_and_releases_go_forth_and_back(
    platform: Platform, server: postgres.Server, database: str
) -> None:
    platform.godwit("secrets", "set", "PLAIN=a word", "-a", APP)
    assert platform.get(APP, "/env").json()["PLAIN"] == "a word"
    (kept,) = server.execute("SELECT data FROM app_secrets", database)
    assert "a word" not in str(kept[0])

    first = platform.deployed(APP)["config"]
    assert ended(platform, begin(platform, env={"COLOR": "blue"}))["status"] == "complete"
    assert platform.deployed(APP)["config"]["env"]["COLOR"] == "blue"
    platform.godwit("rollback", "-a", APP)
    again = platform.deployed(APP)["config"]
    assert "COLOR" not in again.get("env", {})
    assert again["image"] == first["image"]
    assert platform.get(APP, "/env").json()["PLAIN"] == "a word"


def test_while_the_database_is_gone_apps_are_served_and_the_api_says_what_is_missing(
    platform: Platform, server: postgres.Server
) -> None:
    with Load(platform) as load, platform.api as api:
        server.stop(signal.SIGQUIT)
        try:
            for path in (f"/v1/apps/{APP}", f"/v1/apps/{APP}/machines"):
                answer = api.get(path)
                assert answer.status_code == 503, answer.text
                assert AWAY in answer.json()["error"]
            refused = api.post(f"/v1/apps/{APP}/machines", json={"config": {"image": "nginx"}})
            assert refused.status_code == 503, refused.text
            said = platform.godwit("status", "-a", APP, expect=exits.UNREACHABLE)
            assert AWAY in said
            before = load.answered
            eventually(lambda: load.answered >= before + 20)
        finally:
            server.resume()
        eventually(lambda: api.get(f"/v1/apps/{APP}").status_code == 200)
        assert (
            ended(platform, begin(platform, env={"AFTER": "it was back"}))["status"] == "complete"
        )
    assert load.failed == [], (load.answered, load.failed)


@contextlib.contextmanager
def second_control(platform: Platform, directory: Path) -> Iterator[tuple[Platform, int]]:
    """Start another control process on the same database; yield the platform by it, and its pid."""
    address = f"127.0.0.1:{free_port()}"
    told = settings.read_resolved(platform.run / "settings.json")
    told = told.model_copy(update={"listen": told.listen.model_copy(update={"api": address})})
    path = directory / "settings.json"
    path.write_text(told.model_dump_json())
    environ = {**platform.environ, "GODWIT_LISTEN_API": address}
    with (directory / "control.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "godwit.cmd.control", "--settings", str(path)],
            stdout=log, stderr=log, env=environ,
        )  # fmt: skip
    other = Platform(environ, platform.data, platform.run)
    try:
        eventually(lambda: answers(other))
        yield other, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def answers(platform: Platform) -> bool:
    with contextlib.suppress(httpx.HTTPError), platform.api as api:
        return api.get(f"/v1/apps/{APP}").status_code == 200
    return False


def test_of_two_control_processes_one_carries_a_deploy_and_one_that_was_frozen_writes_no_more(
    platform: Platform, server: postgres.Server, database: str, tmp_path: Path
) -> None:
    first = platform.component("control")
    with (
        second_machine(platform),
        second_control(platform, tmp_path) as (other, second),
        Load(platform) as load,
    ):
        before = {one["id"] for one in platform.machines(APP)}
        with contextlib.ExitStack() as meanwhile:
            with frozen(second):
                deploy_id = begin(platform, env={"DEPLOYED": "by either"})
                run = f"FROM runs WHERE id = '{deploy_id}'"
                eventually(lambda: server.execute(f"SELECT holder {run}", database)[0][0])
                meanwhile.enter_context(frozen(first.pid))
            ((holder, fence),) = server.execute(f"SELECT holder, fence {run}", database)
            # Whoever comes second is told that somebody deploys, whichever of them is asked.
            with other.api as api:
                refused = api.post(f"/x/v1/apps/{APP}/deploys", json=of_now(other))
            assert refused.status_code == 409, refused.text
            assert ended(other, deploy_id)["status"] == "complete"
        ((taken_by, taken),) = server.execute(f"SELECT holder, fence {run}", database)
        assert taken_by != holder
        assert int(str(taken)) > int(str(fence))
        eventually(lambda: answers(platform))
        assert look(platform, deploy_id)["status"] == "complete"
        done = server.execute(
            f"SELECT step, count(*) FROM run_entries WHERE run_id = '{deploy_id}'"
            " AND kind = 'done' GROUP BY step",
            database,
        )
        assert {count for _, count in done} == {1}, done
        machines = platform.machines(APP)
        assert {one["id"] for one in machines} == before
        assert {one["config"]["env"]["DEPLOYED"] for one in machines} == {"by either"}
    assert load.failed == [], (load.answered, load.failed)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Have a process stand still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def of_now(platform: Platform) -> dict[str, object]:
    """Return what asks for another deploy of what runs."""
    with platform.api as api:
        (newest, *_) = api.get(f"/x/v1/apps/{APP}/releases").json()["releases"]
    return {"image": newest["image_ref"], "definition": newest["config"], "options": {}}
