"""Nodes: a process tree with network, mounts, processes and hostname of its own.

A lab is one tree, the umbrella; nodes are trees below it. Killing a tree's first process ends all
of it, and with the last process go its network, its links and its mounts: nothing is undone step
by step, and nothing can be left.
"""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from godwit.base import errors
from godwit.host import running

_HERE = Path(__file__).resolve().parent
_BORN_S = 60.0
_GONE_S = 60.0
_PAUSE_S = 0.02
_FIRST, _STARTER = "first.json", "starter.json"
"""Written by `first.sh`, as `running.write` would."""
_OWN = ("--net", "--mount", "--pid", "--uts", "--ipc")


@dataclass(frozen=True)
class Tree:
    """A first process and all that is below it.

    Attributes:
        directory: What it keeps, which process is its first among it.
    """

    name: str
    directory: Path

    @property
    def process(self) -> running.Process | None:
        """Return its first process if it runs."""
        return running.read(self.directory / _FIRST)

    @property
    def first(self) -> int:
        """Return its first process, as this process sees it.

        Raises:
            Failure: It does not run.
        """
        process = self.process
        if process is None:
            raise errors.Failure(
                "failed_precondition", f"{self.name} is down", hint="start it first"
            )
        return process.pid

    def kill(self) -> None:
        """End every process of it at once; returns when all are gone.

        Raises:
            Failure: Some process cannot be killed.
        """
        first, starter = (self.directory / name for name in (_FIRST, _STARTER))
        for process in (running.read(first), running.read(starter)):
            # The starter ends with the first process, by itself.
            if process is not None:
                process.signal(signal.SIGKILL)
                if not process.wait(_GONE_S):
                    raise errors.Failure("deadline_exceeded", f"{self.name} does not end")
        first.unlink(missing_ok=True)
        starter.unlink(missing_ok=True)

    def enter(self, argv: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """Return the command that runs another one inside, and ends it when it is killed."""
        place = ["env", f"--chdir={cwd}"] if cwd else []
        return [
            *("nsenter", "--target", str(self.first), *_OWN, "--wd=/"),
            *("setpriv", "--pdeathsig", "KILL", *place, *argv),
        ]

    def in_network(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs another one in its network and this process's mounts."""
        return ["nsenter", "--target", str(self.first), "--net", *argv]

    def file(self, path: str) -> Path:
        """Return where this process finds a file as it is seen inside."""
        return Path(f"/proc/{self.first}/root") / path.lstrip("/")


def start_umbrella(directory: Path) -> Tree:
    """Start the tree that a lab lives in.

    Raises:
        Failure: The kernel does not allow it; the message says what it said.
    """
    tree = Tree("the lab", directory)
    _start(tree, ("bash", str(_HERE / "umbrella.sh"), str(directory)))
    return tree


def start_node(umbrella: Tree, name: str, directory: Path) -> Tree:
    """Start a node below the umbrella."""
    tree = Tree(name, directory)
    _start(tree, ("bash", str(_HERE / "node.sh"), name, str(directory)), below=umbrella)
    return tree


def _start(tree: Tree, argv: Sequence[str], *, below: Tree | None = None) -> None:
    tree.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    told, log = tree.directory / _FIRST, tree.directory / "init.log"
    told.unlink(missing_ok=True)
    spawn(["unshare", *_OWN, "--fork", "--kill-child", *argv], log, below=below)
    wait_for(told.exists, _BORN_S, lambda: f"{tree.name} was not born: {log.read_text()[-500:]}")


def spawn(argv: Sequence[str], log: Path, *, below: Tree | None = None) -> None:
    """Start a program that outlives this process, as nobody's child.

    Args:
        argv: Program and arguments.
        log: What its output is added to.
        below: The tree it ends with, and whose network it has.

    Raises:
        Failure: It could not be started.
    """
    inside = ("--net", "--mount", "--pid")
    enter = ["nsenter", "--target", str(below.first), *inside, "--wd=/"] if below else []
    with log.open("ab") as output:
        run([*enter, "setsid", "--fork", *argv], stdout=output.fileno())


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = 30.0,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    Args:
        argv: Program and arguments.
        stdin: Its input.
        timeout_s: It is killed after that.
        env: Its environment, this process's own if `None`.
        stdout: Descriptor that all its output goes to, instead of being returned.

    Raises:
        Failure: It failed or took too long; the message holds the end of what it said.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE if stdout is None else stdout,
            text=True,
            errors="surrogateescape",
            timeout=timeout_s,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        command = " ".join(argv)
        raise errors.Failure(
            "deadline_exceeded", f"not within {timeout_s:g} s: {command}"
        ) from error
    except FileNotFoundError as error:
        raise errors.Failure("failed_precondition", f"{argv[0]} is not installed") from error
    if done.returncode != 0:
        said = f"{done.stdout or ''}{done.stderr or ''}".strip()[-2_000:]
        raise errors.Failure("unavailable", f"{' '.join(argv)}: exit {done.returncode}\n{said}")
    return done.stdout or ""


def wait_for(done: Callable[[], object], deadline_s: float, otherwise: Callable[[], str]) -> None:
    """Return once something is so.

    Raises:
        Failure: `deadline_exceeded`, with the other sentence.
    """
    end = time.monotonic() + deadline_s
    while not done():
        if time.monotonic() > end:
            raise errors.Failure("deadline_exceeded", otherwise())
        time.sleep(_PAUSE_S)


def discard(directory: Path) -> None:
    """Remove a directory of a tree that has ended; its disks may be let go a moment later.

    Raises:
        Failure: A loop device still has a file in it.
    """
    wait_for(
        lambda: not _loops(directory),
        _GONE_S,
        lambda: f"still in use: {', '.join(_loops(directory))}",
    )
    shutil.rmtree(directory)


def _loops(directory: Path) -> list[str]:
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if Path(file.read_text().strip()).is_relative_to(directory):
                found.append(file.parts[3])
    return found


def namespace() -> int:
    """Return which space of processes this one is in: pids mean nothing in another."""
    return Path("/proc/self/ns/pid").stat().st_ino
