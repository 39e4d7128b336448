"""Templates: guests booted once and saved, that machines begin as copies of.

A template belongs to one organization, because its copies share memory pages and the kernel's
address layout, and to one combination of what a boot depends on (`Wanted`). The first machine of
a combination boots and has the template made in the background; a day later it is made anew.
`<store>/guests/<digest>.<token>/` holds memory, state and template.json, which is written last.

Copies map the memory privately and hold it open, so a template is removed by unlinking it; its
file is never written again. Making one is a boot under a user and cgroup of its own, through
`godwit-shim launch`, so it dies with the agent; what is left of it is swept at the next start.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic import ValidationError

from godwit.agent import ports
from godwit.agent.vmm import cgroups, hypervisor, lull, places, running, snapshots, turns
from godwit.base import clock, errors, processes, tasks
from godwit.wire.record import Record

logger = logging.getLogger(__name__)

_NOTE = "template.json"
_MAKING = "making-"
_GUEST = "template-"
_DAY_MS = 86_400_000
_MAKE_S = 180.0
_KILL_S = 5.0
_DISTRUSTED_AFTER = 2
_RETRY_S = 600.0
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_HOST_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Wanted(Record):
    """What a template depends on.

    Attributes:
        org_id: Whose; empty where all organizations of a host share.
        boots: Kernel, initramfs, the platform's arguments.
        build: VMM and accelerator.
        balloon: Whether it has one: only copies that get memory of their own may.
        disks: Those beside root and scratch.
        kernel_arguments: Those of its machines.
        lasting_root: Whether its scratch disk is one that can be synced.
        host: This boot of this host, whose clocks the guest knows, and its processor.
    """

    org_id: str
    boots: str
    build: str
    cpus: int
    memory_mb: int
    balloon: bool = False
    disks: tuple[str, ...] = ()
    kernel_arguments: tuple[str, ...] = ()
    lasting_root: bool = False
    host: str

    @property
    def digest(self) -> str:
        """Return the name of the template."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:24]


class Made(Record):
    """`template.json`."""

    v: int = 1
    wanted: Wanted
    made_at_ms: int


@dataclasses.dataclass(frozen=True)
class Template:
    """A template that is here."""

    directory: Path
    made: Made

    @property
    def snapshot(self) -> hypervisor.Snapshot:
        """Return its files."""
        return hypervisor.Snapshot(self.directory / "state", self.directory / "memory")


class Templates:
    """The templates of one host.

    Attributes:
        turns: Who may boot, here and beside.
    """

    def __init__(
        self,
        where: places.Places,
        vmm: hypervisor.Hypervisor,
        groups: cgroups.Cgroups,
        time: clock.Clock,
        *,
        uid: int,
        shared: bool = False,
        at_once: turns.Turns | None = None,
    ) -> None:
        """Take what makes templates.

        Args:
            where: Directories and sockets.
            vmm: What runs guests.
            groups: Limits.
            time: For their age.
            uid: User that the VMM of a template in the making runs under.
            shared: Whether organizations share: for hosts with a single tenant.
            at_once: Who may boot; making a template is a boot like others.
        """
        self._places = where
        self._vmm = vmm
        self._cgroups = groups
        self._clock = time
        self._uid = uid
        self._shared = shared
        self.turns = at_once or turns.Turns()
        self._tasks = tasks.Tasks("templates")
        self._one_at_a_time = asyncio.Lock()
        self._making: set[str] = set()
        self._failed_at: dict[str, float] = {}
        self._failures: dict[Path, int] = {}
        self._swept = False

    def take(self, org_id: str, hardware: ports.Hardware) -> hypervisor.Snapshot | None:
        """Return the template of that kind, `None` if there is none yet.

        One that is missing, or a day old, is made in the background.
        """
        wanted = self._wanted(org_id, hardware)
        found = self._find(wanted)
        now = self._clock.now_ms()
        if found is None or _apart(now, found.made.made_at_ms) > _DAY_MS:
            self._order(wanted, hardware)
        if found is None:
            return None
        with contextlib.suppress(OSError):
            os.utime(found.directory / _NOTE)
        return found.snapshot

    async def make(self, org_id: str, hardware: ports.Hardware) -> hypervisor.Snapshot:
        """Return the template of that kind, made first if it is not here.

        Raises:
            Failure: It cannot be made.
        """
        wanted = self._wanted(org_id, hardware)
        async with self._in_turn(wanted):
            found = self._find(wanted) or await self._make(wanted, hardware)
        return found.snapshot

    def trust(self, snapshot: hypervisor.Snapshot) -> None:
        """Hear that a copy of it runs."""
        self._failures.pop(snapshot.state.parent, None)

    def distrust(self, snapshot: hypervisor.Snapshot) -> None:
        """Hear that a copy of it did not come to run; the second in a row ends it."""
        directory = snapshot.state.parent
        self._failures[directory] = self._failures.get(directory, 0) + 1
        if self._failures[directory] >= _DISTRUSTED_AFTER:
            logger.warning("template %s is of no use: removing it", directory.name)
            del self._failures[directory]
            self._failed_at[directory.name.partition(".")[0]] = self._clock.monotonic()
            _remove(directory)

    async def close(self) -> None:
        """Stop making templates."""
        await self._tasks.cancel()

    def _wanted(self, org_id: str, hardware: ports.Hardware) -> Wanted:
        resources = hardware.resources
        return Wanted(
            org_id="" if self._shared else org_id,
            boots=self._vmm.boots,
            build=self._vmm.build,
            cpus=resources.cpus,
            memory_mb=resources.memory_mb,
            balloon=resources.max_memory_mb > 0,
            disks=hardware.disks,
            kernel_arguments=hardware.kernel_arguments,
            lasting_root=hardware.lasting_root,
            host=f"{_HOST_BOOT.read_text().strip()} {snapshots.host_cpu()}",
        )

    def _find(self, wanted: Wanted) -> Template | None:
        """Return the newest template of that kind."""
        found = [
            Template(note.parent, made)
            for note in self._places.templates.glob(f"{wanted.digest}.*/{_NOTE}")
            if (made := _read(note)) is not None and made.wanted == wanted
        ]
        return max(found, key=lambda template: template.made.made_at_ms, default=None)

    def _order(self, wanted: Wanted, hardware: ports.Hardware) -> None:
        """Have a template made, unless it is being made or failed a moment ago."""
        digest = wanted.digest
        failed_at = self._failed_at.get(digest)
        if failed_at is not None and self._clock.monotonic() - failed_at < _RETRY_S:
            return
        if digest not in self._making:
            self._making.add(digest)
            self._tasks.spawn(self._make_in_turn(wanted, hardware), name=digest)

    async def _make_in_turn(self, wanted: Wanted, hardware: ports.Hardware) -> None:
        try:
            async with self._in_turn(wanted):
                await self._make(wanted, hardware)
        except (errors.Failure, OSError, TimeoutError) as error:
            logger.warning("no template for %s: %s", wanted.org_id or "all", error)
            self._failed_at[wanted.digest] = self._clock.monotonic()
        finally:
            self._making.discard(wanted.digest)

    @contextlib.asynccontextmanager
    async def _in_turn(self, wanted: Wanted) -> AsyncIterator[None]:
        """Boot when it is this template's turn, and one template at a time.

        The turn comes first: it was asked for by a machine of the same kind, and whoever comes
        after that one is to find the template there.
        """
        name = f"{_GUEST}{wanted.digest}"
        await self.turns.take(name)
        try:
            async with self._one_at_a_time:
                yield
        finally:
            self.turns.give_back(name)

    async def _make(self, wanted: Wanted, hardware: ports.Hardware) -> Template:
        """Boot and save a guest; replaces what there was of its kind."""
        await self._sweep()
        token = secrets.token_hex(4)
        name = f"{_GUEST}{token}"
        directory = self._places.templates / f"{_MAKING}{token}"
        places.make_private(directory)
        guest = hypervisor.Guest(
            name=name,
            slot=0,
            uid=self._uid,
            resources=hardware.resources,
            disks=hardware.disks,
            kernel_arguments=hardware.kernel_arguments,
            lasting_root=hardware.lasting_root,
            channel=self._places.channel(name),
            monitor=self._places.monitor(name),
            own_memory=directory / "memory",
        )
        try:
            async with asyncio.timeout(_MAKE_S):
                await self._boot_and_save(guest, directory)
            made = Made(wanted=wanted, made_at_ms=self._clock.now_ms())
            places.write_private(directory / _NOTE, made.model_dump_json())
            target = self._places.templates / f"{wanted.digest}.{token}"
            directory.rename(target)
        except TimeoutError as error:
            raise errors.Failure("deadline_exceeded", "its guest was not up in time") from error
        finally:
            await self._end(name)
            _remove(directory)
        logger.info("template %s is ready", target.name)
        self._remove_others(wanted.digest, target)
        return Template(target, made)

    async def _boot_and_save(self, guest: hypervisor.Guest, directory: Path) -> None:
        limits = cgroups.limits(guest.resources, self._vmm.overhead_mb)
        idle_time_only = dataclasses.replace(limits, cpu_part=0)
        procs = self._cgroups.ensure(guest.name, idle_time_only)
        places.make_private(self._places.sockets)
        said = directory / "stderr"
        with self._vmm.launch(guest) as launch, said.open("wb") as stderr:
            keep = ",".join(map(str, sorted(launch.descriptors)))
            words = ("launch", str(os.getpid()), str(launch.uid), str(launch.gid), keep, *procs)
            pid = processes.detach(
                [str(self._places.shim), *words, "--", *launch.argv],
                stderr=stderr.fileno(),
                descriptors=launch.descriptors,
                env=_ENV,
            )
        try:
            await lull.asleep(guest.channel, launch.channel_port, pid)
        except (ConnectionError, OSError) as error:
            text = said.read_text(errors="replace").strip()[-1000:]
            raise errors.Failure("unavailable", f"its guest ended: {error}; {text}") from error
        await lull.idle(pid)
        await self._vmm.pause(guest.monitor)
        into = hypervisor.Snapshot(directory / "state", directory / "memory")
        if (await self._vmm.save(guest.monitor, into)).memory is None:
            raise errors.Failure("internal", "its memory is not in a file")
        said.unlink()

    async def _end(self, name: str) -> None:
        """Ensure nothing of a guest in the making is left but its directory."""
        is_vmm = self._vmm.is_vmm(name, range(self._uid, self._uid + 1))
        await running.end(running.pids(), is_vmm, within_s=_KILL_S)
        await self._cgroups.remove(name)
        await asyncio.to_thread(self._vmm.clean, name)
        for socket in (self._places.channel(name), self._places.monitor(name)):
            socket.unlink(missing_ok=True)

    def _remove_others(self, digest: str, keep: Path) -> None:
        """Remove older templates of a kind, and those that nobody has asked for in a day."""
        now = self._clock.now_ms()
        for note in self._places.templates.glob(f"*/{_NOTE}"):
            directory = note.parent
            same_kind = directory.name.partition(".")[0] == digest
            with contextlib.suppress(FileNotFoundError):
                unused = _apart(now, note.stat().st_mtime_ns // 1_000_000) > _DAY_MS
                if directory != keep and (same_kind or unused):
                    _remove(directory)

    async def _sweep(self) -> None:
        """Remove what an agent that was killed left of a template in the making."""
        if self._swept:
            return
        self._swept = True
        for directory in self._places.templates.glob(f"{_MAKING}*"):
            await self._end(_GUEST + directory.name.removeprefix(_MAKING))
            _remove(directory)


def _apart(one_ms: int, other_ms: int) -> int:
    """Return the time between: a clock that was set back leaves templates from the future."""
    return abs(one_ms - other_ms)


def _read(note: Path) -> Made | None:
    try:
        return Made.model_validate_json(note.read_bytes())
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be read: %s", note, error)
        return None


def _remove(directory: Path) -> None:
    """Remove a template; its note goes first, so that half of one is none."""
    (directory / _NOTE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
