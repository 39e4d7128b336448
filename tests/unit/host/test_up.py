"""Bringing a host up and upgrading it: what must be so before anything running is touched."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.base.settings import Paths, Settings
from godwit.host import running, up


@pytest.fixture
def former(tmp_path: Path) -> Iterator[running.Process]:
    """Return the supervising process of a former release, which ends at any signal."""
    run = tmp_path / "run"
    run.mkdir()
    settings = Settings(paths=Paths(data=tmp_path / "data", run=run))
    (run / "settings.json").write_text(settings.model_dump_json())
    (run / "ready").touch()
    with contextlib.ExitStack() as ending:
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        ending.callback(child.wait)
        ending.callback(child.kill)
        process = running.of(child.pid)
        running.write(run / "host.json", process)
        yield process


def test_an_upgrade_that_lacks_something_leaves_what_runs_alone(
    former: running.Process, tmp_path: Path
) -> None:
    programs = tmp_path / "release without programs"
    settings = Settings(paths=Paths(run=tmp_path / "run", programs=programs))
    with pytest.raises(errors.Failure, match="godwit-edge") as raised:
        up.upgrade(settings, told=lambda _: None)
    assert raised.value.code == "failed_precondition"
    assert former.alive
    assert (tmp_path / "run" / "ready").exists()


def test_an_upgrade_of_what_is_not_up_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(errors.Failure, match="not up here") as raised:
        up.upgrade(Settings(paths=Paths(run=tmp_path)), told=lambda _: None)
    assert "godwit up -d" in raised.value.hint


def test_an_upgrade_takes_from_the_settings_where_the_host_is_reached_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    before = Settings.model_validate(
        {
            "paths": {"run": run},
            "listen": {"mesh": 51_821, "edge": "127.0.0.1:80"},
            "host": {"endpoints": ["192.0.2.1:51821"]},
        }
    )
    (run / "settings.json").write_text(before.model_dump_json())
    now = Settings.model_validate(
        {
            "paths": {"run": run},
            "listen": {"join": "0.0.0.0:4281", "edge": "127.0.0.1:81"},
            "host": {"endpoints": ["198.51.100.7:51821"]},
        }
    )
    started: list[Settings] = []
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    running.write(run / "host.json", running.of(child.pid))
    monkeypatch.setattr(up.requirements, "demand", lambda _: None)
    monkeypatch.setattr(up, "start_detached", lambda found, **_: started.append(found))
    try:
        up.upgrade(now, told=lambda _: None)
    finally:
        child.kill()
        child.wait()
    (successor,) = started
    assert successor.host.endpoints == ("198.51.100.7:51821",)
    assert successor.listen.join == "0.0.0.0:4281"
    # What they do not say, and all that is no such thing, is as it was.
    assert (successor.listen.mesh, successor.listen.edge) == (51_821, "127.0.0.1:80")
