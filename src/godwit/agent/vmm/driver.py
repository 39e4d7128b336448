"""Virtual machines by QEMU, each behind its shim. Implements `ports.Vmm`.

A machine's directory `<store>/machines/<id>/` holds run.json (what init is told, secrets
included), shim.json, scratch.ext4, exit.json, shim.stderr and logs/; all of it is root's alone,
for the VMM works on descriptors it inherits. Its sockets are `<run>/m/<id>.sock` (the shim's) and
`<run>/m/<id>.channel` (the guest's control port). Every verb may run again after a crash.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from godwit.agent import ports, slots
from godwit.agent.vmm import cgroups, disks, probe, qemu, running, session
from godwit.base import errors, processes
from godwit.wire import shim

logger = logging.getLogger(__name__)

_SPAWN_S = 15.0
_KILL_S = 5.0
_POLL_S = 0.005
_STDERR_TAIL = 2_000
_SOCKET_PATH_LIMIT = 107
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_DIRECTORY_MODE = 0o700
_LEFT_OF_A_BOOT = ("run.json", "shim.json", "scratch.ext4")


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes:
        store: On a reflink file system; machines' directories and disk templates are here.
        run_dir: Sockets; its path is short.
        shim: The program `godwit-shim`.
    """

    store: Path
    run_dir: Path
    shim: Path

    @property
    def machines(self) -> Path:
        """Return the directory of machines' directories."""
        return self.store / "machines"

    @property
    def sockets(self) -> Path:
        """Return the directory of machines' sockets."""
        return self.run_dir / "m"


class QemuVmm:
    """This host's virtual machines.

    Attributes:
        log_limits: Bounds of each machine's log.
    """

    def __init__(
        self,
        places: Places,
        kit: qemu.Kit,
        accelerator: probe.Accelerator,
        groups: cgroups.Cgroups,
        *,
        first_vm_uid: int = 2_000_000,
        log_limits: shim.LogLimits | None = None,
    ) -> None:
        """Take what all machines of this host share."""
        self._places = places
        self._kit = kit
        self._accelerator = accelerator
        self._cgroups = groups
        self._first_uid = first_vm_uid
        self._uids = range(first_vm_uid, first_vm_uid + slots.LAST_SLOT + 1)
        self.log_limits = log_limits or shim.LogLimits()
        self._disks = disks.ScratchDisks(places.store / "templates")

    async def prepare(self, plan: ports.VmPlan) -> None:
        """Ensure a fresh scratch disk and run.json, and no word of an earlier boot's end.

        Raises:
            Failure: `failed_precondition` when the machine still runs.
        """
        if plan.machine_id in running.shims(self._places.machines):
            raise errors.Failure("failed_precondition", f"machine {plan.machine_id} still runs")
        directory = self._directory(plan.machine_id)
        _make_private(directory)
        _make_private(self.logs_directory(plan.machine_id))
        (directory / "exit.json").unlink(missing_ok=True)
        try:
            await self._disks.make(directory / "scratch.ext4", plan.scratch_bytes)
        except (OSError, processes.ProgramFailed) as error:
            raise errors.Failure(
                "insufficient_capacity",
                f"no disk for machine {plan.machine_id}: {error}",
                hint="free some space on the host's data disk",
            ) from error
        _write_private(directory / "run.json", plan.run_spec.model_dump_json())

    async def spawn(self, plan: ports.VmPlan) -> None:
        """Ensure the shim runs; returns when its socket answers.

        Raises:
            Failure: `unavailable` when the shim does not come up.
        """
        pid = running.shims(self._places.machines).get(plan.machine_id)
        if pid is None:
            pid = self._start_shim(plan)
        await self._await_socket(plan.machine_id, pid)

    async def connect(self, machine_id: str) -> session.Session | None:
        """Return a session with the machine's shim, `None` when there is no shim."""
        return await session.Session.open(machine_id, self._socket(machine_id))

    async def exit_record(self, machine_id: str, instance_id: str) -> shim.ExitRecord | None:
        """Return how this boot ended, if the shim wrote it down."""
        path = self._directory(machine_id) / "exit.json"
        try:
            record = shim.ExitRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            logger.warning("%s cannot be read: %s", path, error)
            return None
        return record if record.instance_id == instance_id else None

    async def discard(self, machine_id: str, slot: int) -> None:
        """Ensure no shim, VMM, cgroup, socket or scratch disk of it is left; logs stay.

        The shim is asked first, so that it writes down how its VMM ended.

        Args:
            machine_id: Whose.
            slot: Its slot; the VMM is found by the machine's id alone.
        """
        logger.debug("discarding machine %s of slot %d", machine_id, slot)
        await self._ask_to_end(machine_id)
        every = running.pids()
        is_shim = running.is_shim(self._places.machines, machine_id)
        await running.end(every, is_shim, within_s=_KILL_S)
        await running.end(every, running.is_vmm(machine_id, self._uids), within_s=_KILL_S)
        await self._cgroups.remove(machine_id)
        self._socket(machine_id).unlink(missing_ok=True)
        self._channel(machine_id).unlink(missing_ok=True)
        for name in _LEFT_OF_A_BOOT:
            (self._directory(machine_id) / name).unlink(missing_ok=True)

    async def forget(self, machine_id: str) -> None:
        """Remove the machine's directory, logs included."""
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, self._directory(machine_id))

    async def observed(self) -> frozenset[str]:
        """Return the ids of machines whose shim runs."""
        return frozenset(running.shims(self._places.machines))

    def logs_directory(self, machine_id: str) -> Path:
        """Return where the shim keeps the machine's log files."""
        return self._directory(machine_id) / "logs"

    def _directory(self, machine_id: str) -> Path:
        return self._places.machines / machine_id

    def _config_file(self, machine_id: str) -> Path:
        return self._directory(machine_id) / running.CONFIG_NAME

    def _socket(self, machine_id: str) -> Path:
        return self._places.sockets / f"{machine_id}.sock"

    def _channel(self, machine_id: str) -> Path:
        return self._places.sockets / f"{machine_id}.channel"

    def _start_shim(self, plan: ports.VmPlan) -> int:
        _make_private(self._places.sockets)
        given = qemu.Descriptors()
        config = self._shim_config(plan, given)
        path = self._config_file(plan.machine_id)
        _write_private(path, config.model_dump_json())
        self._socket(plan.machine_id).unlink(missing_ok=True)
        with (
            self._opened(plan, given, Path(config.channel_socket)) as descriptors,
            (path.parent / "shim.stderr").open("wb") as stderr,
        ):
            return processes.detach(
                [str(self._places.shim), "--config", str(path)],
                stderr=stderr.fileno(),
                descriptors=descriptors,
                env=_ENV,
            )

    def _shim_config(self, plan: ports.VmPlan, given: qemu.Descriptors) -> shim.ShimConfig:
        directory = self._directory(plan.machine_id)
        uid = self._first_uid + slots.check(plan.slot)
        group = self._accelerator.group
        overhead = qemu.OVERHEAD_MB[self._accelerator.kind]
        limits = cgroups.limits(plan.resources, overhead)
        return shim.ShimConfig(
            machine_id=plan.machine_id,
            instance_id=plan.instance_id,
            org_id=plan.org_id,
            directory=str(directory),
            socket=str(self._socket(plan.machine_id)),
            channel_socket=str(self._channel(plan.machine_id)),
            run_spec=str(directory / "run.json"),
            vmm=shim.Vmm(
                argv=qemu.command(plan, self._kit, self._accelerator, given),
                uid=uid,
                gid=uid if group is None else group,
                cgroup_procs=self._cgroups.ensure(plan.machine_id, limits),
                inherit=given.all,
            ),
            log=self.log_limits,
        )

    @contextlib.contextmanager
    def _opened(
        self, plan: ports.VmPlan, given: qemu.Descriptors, channel: Path
    ) -> Iterator[dict[int, int]]:
        """Open what the VMM works on; yield its numbers and ours."""
        scratch = self._directory(plan.machine_id) / "scratch.ext4"
        with contextlib.ExitStack() as stack:

            def held(descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            yield {
                given.kernel: held(os.open(self._kit.kernel, os.O_RDONLY)),
                given.initramfs: held(os.open(self._kit.initramfs, os.O_RDONLY)),
                given.image: held(os.open(plan.image, os.O_RDONLY)),
                given.scratch: held(os.open(scratch, os.O_RDWR)),
                given.tap: held(slots.open_tap(plan.tap)),
                given.channel: held(listen(channel)),
            }

    async def _await_socket(self, machine_id: str, pid: int) -> None:
        """Return once the shim takes connections, or has ended and said how.

        Raises:
            Failure: `unavailable` when it ended without a word, or is silent past the deadline.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SPAWN_S
        state = "does not answer"
        while loop.time() < deadline:
            made = await session.Session.open(machine_id, self._socket(machine_id))
            if made is not None:
                await made.close()
                return
            if not running.is_alive(pid):
                if self._has_ended(machine_id):
                    return
                state = "ended at once"
                break
            await asyncio.sleep(_POLL_S)
        said = self._shim_said(machine_id)
        raise errors.Failure("unavailable", f"the shim of machine {machine_id} {state}: {said}")

    def _has_ended(self, machine_id: str) -> bool:
        return (self._directory(machine_id) / "exit.json").exists()

    def _shim_said(self, machine_id: str) -> str:
        with contextlib.suppress(OSError):
            text = (self._directory(machine_id) / "shim.stderr").read_text(errors="replace")
            return text.strip()[-_STDERR_TAIL:] or "it said nothing"
        return "it said nothing"

    async def _ask_to_end(self, machine_id: str) -> None:
        """Have the shim kill its VMM, if there is one that listens."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_KILL_S):
                asked = await self.connect(machine_id)
                if asked is None:
                    return
                try:
                    await asked.kill()
                    async for _ in asked.changes():
                        pass
                finally:
                    await asked.close()


def listen(path: Path) -> int:
    """Return a listening socket at the path, for the VMM to accept on."""
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise errors.invalid(
            f"the socket path {path} is too long", hint="choose a shorter run directory"
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(1)
        return listener.detach()
    finally:
        listener.close()


def _make_private(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(_DIRECTORY_MODE)


def _write_private(path: Path, text: str) -> None:
    """Write a file whole, readable by us alone."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)
