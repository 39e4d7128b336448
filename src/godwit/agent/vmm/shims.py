"""Starting shims and waiting for them: the part of the driver that makes processes."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator

from godwit.agent.vmm import cgroups, hypervisor, running, session
from godwit.agent.vmm.places import Places, make_private, write_private
from godwit.base import errors, processes
from godwit.wire import shim

logger = logging.getLogger(__name__)

_SPAWN_S = 15.0
_END_S = 5.0
_POLL_S = 0.005
_STDERR_TAIL = 2_000
_RUN_SPEC_DESCRIPTOR = 63
RUN_SPEC = f"/proc/self/fd/{_RUN_SPEC_DESCRIPTOR}"
"""Where a shim reads its run spec: from memory that it inherits, and that no disk holds."""
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Shims:
    """The shims of this host's machines."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def pid(self, machine_id: str) -> int | None:
        """Return the pid of a machine's shim, if it runs."""
        return running.shims(self._places.machines).get(machine_id)

    def start(self, config: shim.ShimConfig, launch: hypervisor.Launch, told: bytes | None) -> int:
        """Write a machine's shim.json and start its shim with it; return the pid.

        Args:
            config: All but what the launch says.
            launch: Of its VMM.
            told: The run spec, if it is to have one.

        Raises:
            ProgramFailed: The program cannot be started.
        """
        vmm = config.vmm.model_copy(
            update={
                "argv": launch.argv,
                "uid": launch.uid,
                "gid": launch.gid,
                "inherit": tuple(sorted(launch.descriptors)),
            }
        )
        whole = config.model_copy(update={"vmm": vmm, "channel_port": launch.channel_port})
        path = self._places.config(config.machine_id)
        write_private(path, whole.model_dump_json())
        self._places.exit_record(config.machine_id).unlink(missing_ok=True)
        make_private(self._places.sockets)
        self._places.socket(config.machine_id).unlink(missing_ok=True)
        with (path.parent / "shim.stderr").open("wb") as stderr, _in_memory(told) as spec:
            return processes.detach(
                [str(self._places.shim), "--config", str(path)],
                stderr=stderr.fileno(),
                descriptors={**launch.descriptors, **spec},
                env=_ENV,
            )

    async def listening(self, machine_id: str, pid: int) -> None:
        """Return once the shim takes connections, or has ended and said how.

        Raises:
            Failure: `unavailable` when it ended without a word, or is silent past the deadline.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SPAWN_S
        state = "does not answer"
        while loop.time() < deadline:
            made = await self.connect(machine_id)
            if made is not None:
                await made.close()
                return
            if not running.is_alive(pid):
                if self._places.exit_record(machine_id).exists():
                    return
                state = "ended at once"
                break
            await asyncio.sleep(_POLL_S)
        said = self.said(machine_id)
        raise errors.Failure("unavailable", f"the shim of machine {machine_id} {state}: {said}")

    async def connect(self, machine_id: str) -> session.Session | None:
        """Return a session with a machine's shim, `None` when there is no shim."""
        return await session.Session.open(machine_id, self._places.socket(machine_id))

    async def greeted(self, machine_id: str, *, within_s: float) -> shim.Status:
        """Return the status once the guest said hello.

        Raises:
            Failure: `unavailable` when the guest ended or stayed silent instead.
        """
        made = await self.connect(machine_id)
        if made is not None:
            with contextlib.suppress(TimeoutError, ConnectionError):
                try:
                    async with asyncio.timeout(within_s):
                        async for status in made.changes():
                            if status.phase in ("ready", "running"):
                                return status
                finally:
                    await made.close()
        raise errors.Failure("unavailable", f"the guest of machine {machine_id} said no hello")

    async def end(self, machine_id: str, is_vmm: running.Test, groups: cgroups.Cgroups) -> None:
        """Ensure no shim, VMM, cgroup or socket of a machine is left.

        The shim is asked first, so that it writes down how its VMM ended.
        """
        await self._ask_to_end(machine_id)
        every = running.pids()
        is_shim = running.is_shim(self._places.machines, machine_id)
        await running.end(every, is_shim, within_s=_END_S)
        await running.end(every, is_vmm, within_s=_END_S)
        await self._released(machine_id)
        await groups.remove(machine_id)
        for socket in (
            self._places.socket(machine_id),
            self._places.channel(machine_id),
            self._places.monitor(machine_id),
        ):
            socket.unlink(missing_ok=True)

    async def _released(self, machine_id: str) -> None:
        """Return once a shim's lock is free: a process that ends looks gone a moment before.

        Raises:
            TimeoutError: Somebody holds it.
        """
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(self._places.directory(machine_id) / "shim.lock", os.O_WRONLY)
            try:
                async with asyncio.timeout(_END_S):
                    while not _try_lock(lock):
                        await asyncio.sleep(_POLL_S)
            finally:
                os.close(lock)

    async def _ask_to_end(self, machine_id: str) -> None:
        """Have the shim kill its VMM, if there is one that listens."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_END_S):
                asked = await self.connect(machine_id)
                if asked is None:
                    return
                try:
                    await asked.kill()
                    async for _ in asked.changes():
                        pass
                finally:
                    await asked.close()

    def said(self, machine_id: str) -> str:
        """Return what a shim last said on its standard error."""
        with contextlib.suppress(OSError):
            path = self._places.directory(machine_id) / "shim.stderr"
            text = path.read_text(errors="replace")
            return text.strip()[-_STDERR_TAIL:] or "it said nothing"
        return "it said nothing"


@contextlib.contextmanager
def _in_memory(told: bytes | None) -> Iterator[dict[int, int]]:
    """Hold a run spec in memory for a shim to inherit: its number there, and ours."""
    if told is None:
        yield {}
        return
    descriptor = os.memfd_create("run-spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "wb") as file:
        file.write(told)
        file.flush()
        yield {_RUN_SPEC_DESCRIPTOR: descriptor}


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
