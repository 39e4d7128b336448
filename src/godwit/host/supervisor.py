"""Runs the host's components: readiness, restart with back-off, bounded shutdown.

Owns the component processes and their pid files and logs. Called by `host.up` only.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from godwit.base import tasks
from godwit.host import listeners, running
from godwit.host.components import Component

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
_RETIRES_S = 30.0
"""Longer than the edge drains."""
_LOG_BYTES = 16_777_216
_LOGS_LOOKED_AT_S = 30.0
_EXTEND = b"EXTEND_TIMEOUT_USEC="
"""What a component says, as under systemd, that is busy before it is ready."""


class Supervisor:
    """Starts components in order, keeps them running, stops them backwards."""

    def __init__(
        self, components: tuple[Component, ...], run: Path, logs: Path, environ: Mapping[str, str]
    ) -> None:
        self._runners = {c.name: _Runner(c, run, logs, environ) for c in components}
        self._tasks = tasks.Tasks("supervisor")

    async def start(self) -> None:
        """Start everything and return once all components are ready.

        Raises:
            TimeoutError: One was not ready within its `start_s` (twice over, for one restart).
        """
        for runner in self._runners.values():
            self._tasks.spawn(self._keep(runner), name=runner.component.name)
        self._tasks.spawn(self._bound_logs(), name="logs")
        for runner in self._runners.values():
            async with asyncio.timeout(runner.component.start_s * 2):
                await runner.ready.wait()

    async def stop(self, *, handing_over: bool = False) -> None:
        """Stop everything, the last started first.

        Args:
            handing_over: Leave alone what a successor of this process takes over from.
        """
        for runner in reversed(self._runners.values()):
            runner.wanted = False
            if handing_over and runner.component.hand_over is not None:
                runner.left = True
            else:
                await runner.end()
        await self._tasks.cancel()

    def ready(self) -> dict[str, bool]:
        """Return each component's name and whether it is ready."""
        return {name: runner.ready.is_set() for name, runner in self._runners.items()}

    async def _keep(self, runner: "_Runner") -> None:
        for name in runner.component.after:
            await self._runners[name].was_ready.wait()
        pause = _FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while runner.wanted:
            began = loop.time()
            try:
                ended = f"exit {await runner.run_once()}"
            except OSError as error:
                # No such program, disk full: what lacks may come back, as a program that ended.
                ended = f"cannot be run: {error}"
            if not runner.wanted:
                return
            if loop.time() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            logger.warning(
                "%s ended (%s); again in %.1f s; its log: %s",
                runner.component.name,
                ended,
                pause,
                runner.log,
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOGS_LOOKED_AT_S)
            for runner in self._runners.values():
                await asyncio.to_thread(bound_log, runner.log)


class _Runner:
    """One component: its current process, if any."""

    def __init__(
        self, component: Component, run: Path, logs: Path, environ: Mapping[str, str]
    ) -> None:
        self.component = component
        self.ready = asyncio.Event()
        self.was_ready = asyncio.Event()
        self._not_ready_until = 0.0
        self.wanted = True
        self.left = False
        self.log = logs / f"{component.name}.log"
        self._run = run
        self._pid_file = run / "pids" / f"{component.name}.json"
        self._notify = run / "n" / f"{component.name}.sock"
        self._environ = environ
        self._process: _Process | None = None

    async def run_once(self) -> int:
        """Start the program, follow it to its end, return its exit code."""
        self._notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notified:
            notified.bind(str(self._notify))
            with self.log.open("ab") as log:
                told = {
                    "NOTIFY_SOCKET": str(self._notify),
                    running.MARK: f"{self._run}:{self.component.name}",
                }
                self._process = _Process(
                    self.component.argv, log.fileno(), {**self._environ, **told}
                )
            try:
                running.write(self._pid_file, running.of(self._process.pid))
                if not self.wanted:
                    # `stop` came while the program was being started and saw no process.
                    await self.end()
                return await self._follow(self._process, notified)
            finally:
                self.ready.clear()
                if not self.left:
                    self._process.signal(signal.SIGKILL)
                    self._pid_file.unlink(missing_ok=True)

    async def _follow(self, process: "_Process", notified: socket.socket) -> int:
        async with tasks.Tasks(self.component.name) as watchers:
            ended = watchers.spawn(process.wait(), name="wait")
            ready = watchers.spawn(self._become_ready(notified, process.pid), name="ready")
            self._extend(self.component.start_s)
            loop = asyncio.get_running_loop()
            while not (ended.done() or ready.done()) and loop.time() < self._not_ready_until:
                await asyncio.wait(
                    {ended, ready},
                    timeout=self._not_ready_until - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if ready.done() and not ended.done():
                self.ready.set()
                self.was_ready.set()
                logger.info("%s is ready", self.component.name)
            elif not ended.done():
                logger.error(
                    "%s was not ready within %g s", self.component.name, self.component.start_s
                )
                await self.end()
            return await ended

    async def _become_ready(self, notified: socket.socket, session: int) -> None:
        loop = asyncio.get_running_loop()
        address = self.component.ready_at
        if address is None:
            while b"READY=1" not in (said := (await loop.sock_recv(notified, 4096)).splitlines()):
                for line in said:
                    if line.startswith(_EXTEND) and line.removeprefix(_EXTEND).isdigit():
                        self._extend(int(line.removeprefix(_EXTEND)) / 1_000_000)
            return
        strangers: tuple[listeners.Holder, ...] = ()
        while not await self._answers(address, session):
            found = await asyncio.to_thread(listeners.of, address)
            others = tuple(one for one in found if one.session != session)
            if others and others != strangers:
                who = ", ".join(map(str, others))
                logger.error("%s cannot have %s: held by %s", self.component.name, address, who)
            strangers = others
            await asyncio.sleep(0.05)

    def _extend(self, seconds: float) -> None:
        """Have it not be late before so many seconds from now."""
        until = asyncio.get_running_loop().time() + seconds
        self._not_ready_until = max(self._not_ready_until, until)

    async def _answers(self, address: str, session: int) -> bool:
        """Tell whether the component, and nobody else, takes connections at an address."""
        host, _, port = address.rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return False
        writer.close()
        found = await asyncio.to_thread(listeners.of, address)
        return any(one.session == session for one in found)

    async def end(self) -> None:
        """Ask the process to stop; kill it past its time."""
        process = self._process
        if process is None:
            return
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.component.stop_s):
                await process.wait()
        except TimeoutError:
            logger.warning("%s did not stop in time and was killed", self.component.name)
            process.signal(signal.SIGKILL)
            await process.wait()


class _Process:
    """A child that may outlive this process: asyncio's are killed when their loop goes."""

    def __init__(self, argv: tuple[str, ...], log: int, environ: Mapping[str, str]) -> None:
        self.pid = os.posix_spawnp(
            argv[0],
            argv,
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            # Python ignores it; no program expects that.
            setsigdef=[signal.SIGPIPE],
        )
        self._code: int | None = None

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self._ended() is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Return its exit code, once it has ended; negative for a signal."""
        while (code := self._ended()) is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            descriptor = os.pidfd_open(self.pid)
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        return code

    def _ended(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def bound_log(log: Path, limit: int = _LOG_BYTES) -> None:
    """Keep a log within bounds: a long one is copied to `<name>.log.1` and emptied.

    Its writers append, so they go on at the beginning; a line written meanwhile may be lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > limit:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def end_leftovers(run: Path, stop_s: float = 10.0, spared: Collection[str] = ()) -> list[str]:
    """End components that a dead supervisor left behind; return their names.

    Those it had started but not yet written down are found by the mark in their environment.

    Args:
        run: The instance's run directory.
        stop_s: What each has between SIGTERM and SIGKILL.
        spared: Components that are left alone.
    """
    found = []
    for pid_file in sorted((run / "pids").glob("*.json")):
        if pid_file.stem in spared:
            continue
        process = running.read(pid_file)
        if process is not None:
            process.end(stop_s)
            found.append(pid_file.stem)
        pid_file.unlink(missing_ok=True)
    for pid, name in sorted(running.marked(str(run)).items()):
        process = running.of(pid)
        if pid != os.getpid() and process.alive and name not in spared:
            process.end(stop_s)
            found.append(name)
    return list(dict.fromkeys(found))


def predecessors(run: Path, components: Iterable[Component]) -> dict[str, running.Process]:
    """Return what still runs of those components that a successor takes over from, by name."""
    able = {one.name for one in components if one.hand_over is not None and one.hand_over.exists()}
    return {
        name: running.of(pid) for pid, name in running.marked(str(run)).items() if name in able
    }


async def retire(process: running.Process) -> None:
    """Wait for a component that was taken over from; end it if it does not end by itself."""
    if not await asyncio.to_thread(process.wait, _RETIRES_S):
        logger.warning("pid %s was taken over from and did not end; it is ended", process.pid)
        await asyncio.to_thread(process.end, 5)


def stop_signal(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back at SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)


def environment() -> dict[str, str]:
    """Return what components inherit: the environment without this process's own settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith("GODWIT_")}
