"""Pid files name one process for ever."""

import signal
import subprocess
from pathlib import Path

import pytest

from godwit.host import running


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_reads_back_while_it_lives(tmp_path: Path, sleeper) -> None:
    running.write(tmp_path / "p.json", running.of(sleeper.pid))
    assert running.read(tmp_path / "p.json") == running.of(sleeper.pid)


def test_a_pid_given_to_another_program_is_not_the_same_process(sleeper) -> None:
    former = running.Process(sleeper.pid, running.of(sleeper.pid).start_time - 1)
    former.signal(signal.SIGKILL)
    assert not former.alive
    assert sleeper.poll() is None


def test_end_kills_a_process_that_ignores_the_request(tmp_path: Path) -> None:
    stubborn = subprocess.Popen(
        [
            "python3",
            "-c",
            "import signal;signal.signal(15,signal.SIG_IGN);print(flush=True);signal.pause()",
        ],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    with stubborn.stdout:
        stubborn.stdout.readline()
        running.of(stubborn.pid).end(0.2)
        assert stubborn.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("junk", ["", "{}", "[1]", '{"pid": 1}', "\0"])
def test_an_unreadable_file_names_nobody(tmp_path: Path, junk: str) -> None:
    (tmp_path / "p.json").write_text(junk)
    assert running.read(tmp_path / "p.json") is None
