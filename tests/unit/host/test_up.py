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
