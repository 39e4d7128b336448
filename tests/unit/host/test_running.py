"""Pid files name one process for ever."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from godwit.host import running
from godwit.testing.platform import eventually


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


def test_a_process_is_alive_until_its_last_thread_lets_go_of_what_it_holds() -> None:
    # The first thread ends alone, by the bare system call (60 is exit on amd64).
    program = (
        "import ctypes, os, threading\n"
        "def rest():\n"
        "    print(flush=True)\n"
        "    os.read(0, 1)\n"
        "    os._exit(0)\n"
        "threading.Thread(target=rest).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        one = running.of(process.pid)
        stat = Path(f"/proc/{process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", 10)
        assert one.alive
        process.stdin.close()
        assert one.wait(10)


@pytest.mark.parametrize("junk", ["", "{}", "[1]", '{"pid": 1}', "\0"])
def test_an_unreadable_file_names_nobody(tmp_path: Path, junk: str) -> None:
    (tmp_path / "p.json").write_text(junk)
    assert running.read(tmp_path / "p.json") is None
