"""Virtual machines of this host, each behind its shim. Implements `ports.Vmm`.

A machine's directory `<store>/machines/<id>/` holds shim.json, scratch.ext4, swap.img (of one that
has swap), cache.ext4 (of one with a cache drive), own1.ext4 and so on (of containers' volumes that
have a size), memory (of one that may be suspended), snapshot/ (of one that is), exit.json,
shim.stderr and logs/; all of it is root's alone, for the VMM works on descriptors it inherits.
What init is told, secrets included, is handed to the shim in memory. Sockets: see `places`. Every
verb may run again after a crash.

A machine starts as a copy of its organization's template if there is one, by booting a kernel
otherwise; whatever goes wrong with a template is made good by a boot, in the same start.
"""

import asyncio
import contextlib
import dataclasses
import logging
import shutil
from pathlib import Path

from pydantic import ValidationError

from godwit.agent import ports, slots
from godwit.agent.vmm import (
    balloon,
    cgroups,
    disks,
    hypervisor,
    places,
    running,
    session,
    shims,
    snapshots,
    standstill,
    templates,
    turns,
)
from godwit.agent.vmm.places import Places
from godwit.base import errors, processes, tasks
from godwit.wire import guest as guest_wire
from godwit.wire import shim

__all__ = ["HostVmm", "Places"]

logger = logging.getLogger(__name__)

_GREETED_S = 15.0
_BOOT_DEADLINE_MS = {"cold": 60_000, "warm": 20_000, "resumed": 20_000}
_ASLEEP_S = 5.0
_LEFT_OF_A_BOOT = ("run.json", "shim.json")
"""A release that knew no secrets wrote what init is told into run.json."""


class HostVmm:
    """This host's virtual machines.

    Attributes:
        log_limits: Bounds of each machine's log.
    """

    def __init__(
        self,
        where: Places,
        vmm: hypervisor.Hypervisor,
        groups: cgroups.Cgroups,
        *,
        first_vm_uid: int = 2_000_000,
        log_limits: shim.LogLimits | None = None,
        copies: templates.Templates | None = None,
    ) -> None:
        """Take what all machines of this host share.

        Args:
            where: Directories and sockets.
            vmm: What runs guests.
            groups: Limits.
            first_vm_uid: User of slot 0.
            log_limits: Bounds of each machine's log.
            copies: Where machines begin as copies of templates; `None` boots every one.
        """
        self._places = where
        self._vmm = vmm
        self._cgroups = groups
        self._first_uid = first_vm_uid
        self._uids = range(first_vm_uid, first_vm_uid + slots.LAST_SLOT + 1)
        self.log_limits = log_limits or shim.LogLimits()
        self._copies = copies
        self._turns = turns.Turns() if copies is None else copies.turns
        self._tasks = tasks.Tasks("boots")
        self._disks = disks.Disks(where.store / "templates")
        self._shims = shims.Shims(where)
        self._snapshots = snapshots.Snapshots(where)
        self._balloons = balloon.Balloons(where, vmm, groups)

    async def close(self) -> None:
        """Stop what goes on in the background; machines run on."""
        await self._tasks.cancel()
        if self._copies is not None:
            await self._copies.close()

    async def prepare(self, plan: ports.VmPlan) -> None:
        """Ensure its disks, and no word of an earlier boot or snapshot.

        Raises:
            Failure: `failed_precondition` when the machine still runs.
        """
        if self._shims.pid(plan.machine_id) is not None:
            raise errors.Failure("failed_precondition", f"machine {plan.machine_id} still runs")
        places.make_private(self._places.directory(plan.machine_id))
        places.make_private(self.logs_directory(plan.machine_id))
        self._places.exit_record(plan.machine_id).unlink(missing_ok=True)
        await asyncio.to_thread(self._snapshots.remove, plan.machine_id, memory=True)
        scratch = self._places.scratch(plan.machine_id)
        try:
            if not (plan.keep_scratch and scratch.exists()):
                kind: disks.Kind = "root" if plan.lasting_root else "scratch"
                await self._disks.make(scratch, kind, plan.scratch_bytes)
            if plan.swap_bytes:
                swap = self._places.swap(plan.machine_id)
                await self._disks.make(swap, "swap", plan.swap_bytes)
            if plan.cache_bytes:
                cache = self._places.cache(plan.machine_id)
                await self._disks.make(cache, "scratch", plan.cache_bytes)
            own = self._places.volumes(plan.machine_id).values()
            for volume, size_bytes in zip(own, plan.volume_bytes, strict=False):
                await self._disks.make(volume, "scratch", size_bytes)
        except (OSError, processes.ProgramFailed) as error:
            raise errors.Failure(
                "insufficient_capacity",
                f"no disk for machine {plan.machine_id}: {error}",
                hint="free some space on the host's data disk",
            ) from error

    async def await_turn(self, machine_id: str, org_id: str, hardware: ports.Hardware) -> None:
        """Return once the machine may be spawned: at once if there is a template for it.

        Its turn to boot ends when its guest says hello, or with `discard`.
        """
        if self._has_template(org_id, hardware):
            return
        await self._turns.take(machine_id)
        # The first boot of its kind has a template made, which may be there by now.
        if self._has_template(org_id, hardware):
            self._turns.give_back(machine_id)

    async def spawn(self, plan: ports.VmPlan) -> None:
        """Ensure the shim runs; returns when its socket answers.

        Raises:
            Failure: `unavailable` when the shim does not come up.
        """
        pid = self._shims.pid(plan.machine_id)
        if pid is not None and await self._goes_on(plan.machine_id, pid):
            return
        if self._copies is not None and await self._copy(plan, self._copies):
            self._turns.give_back(plan.machine_id)
            return
        guest = self._guest(plan)
        if _owns_memory(plan):
            guest = dataclasses.replace(guest, own_memory=self._snapshots.memory(plan.machine_id))
        await self._start(plan, guest, "cold")
        turn = self._turns.held(plan.machine_id)
        if turn is not None:
            self._tasks.spawn(self._end_turn(plan.machine_id, turn), name=plan.machine_id)

    async def suspend(self, machine_id: str, instance_id: str) -> None:
        """Ensure the machine is saved and stands still; its shim may still be there.

        Raises:
            Failure: `failed_precondition`: it cannot be saved and runs on.
        """
        if await self.has_snapshot(machine_id, instance_id):
            return
        asked = await self.connect(machine_id)
        if asked is None:
            raise errors.Failure("failed_precondition", f"machine {machine_id} does not run")
        try:
            await self._lull(asked, machine_id, instance_id)
            await self._save(machine_id, instance_id)
        except (errors.Failure, OSError, TimeoutError) as error:
            await self._rouse(asked, machine_id)
            raise errors.Failure(
                "failed_precondition", f"machine {machine_id} cannot be suspended: {error}"
            ) from error
        except asyncio.CancelledError:
            # Broken off, by a stop for example: it runs on, and can be asked to end.
            await self._rouse(asked, machine_id)
            raise
        finally:
            await asked.close()

    async def resume(self, plan: ports.VmPlan) -> None:
        """Ensure the machine runs on from its saved state; that is spent then.

        Raises:
            Failure: `failed_precondition`: there is none that can be used, nothing runs.
        """
        machine_id = plan.machine_id
        pid = self._shims.pid(machine_id)
        if pid is not None and await self._goes_on(machine_id, pid):
            return
        files = await asyncio.to_thread(
            self._snapshots.usable, self._saved(machine_id, plan.instance_id)
        )
        self._snapshots.spend(machine_id)
        own = self._snapshots.memory(machine_id) if _owns_memory(plan) else files.memory
        guest = dataclasses.replace(self._guest(plan), snapshot=files, own_memory=own)
        try:
            await self._start(plan, guest, "resumed")
        except errors.Failure as error:
            await self._end(machine_id)
            self._snapshots.remove(machine_id, memory=True)
            self._places.exit_record(machine_id).unlink(missing_ok=True)
            raise errors.Failure("failed_precondition", error.message) from error
        self._snapshots.remove(machine_id, memory=False)

    async def has_snapshot(self, machine_id: str, instance_id: str) -> bool:
        """Tell whether a whole saved state of this version is here."""
        return self._snapshots.find(machine_id, instance_id) is not None

    async def set_memory(self, machine_id: str, limit_mb: int) -> None:
        """Have the guest keep that much memory, and hold its VMM to it.

        Raises:
            Failure: `failed_precondition` when it does not run or has no balloon.
        """
        await self._balloons.set_memory(machine_id, limit_mb)

    async def reclaim(self, machine_id: str, amount_mb: int) -> int:
        """Take memory the guest can spare; return how much, in MB.

        Raises:
            Failure: `failed_precondition` when it does not run or has no balloon.
        """
        return await self._balloons.reclaim(machine_id, amount_mb)

    async def connect(self, machine_id: str) -> session.Session | None:
        """Return a session with the machine's shim, `None` when there is no shim."""
        return await self._shims.connect(machine_id)

    async def exit_record(self, machine_id: str, instance_id: str) -> shim.ExitRecord | None:
        """Return how this boot ended, if the shim wrote it down."""
        path = self._places.exit_record(machine_id)
        try:
            record = shim.ExitRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            logger.warning("%s cannot be read: %s", path, error)
            return None
        return record if record.instance_id == instance_id else None

    async def discard(self, machine_id: str, slot: int, *, keep: ports.Kept = "nothing") -> None:
        """Ensure no shim, VMM, cgroup, socket or swap disk of it is left; logs stay.

        Args:
            machine_id: Whose.
            slot: Its slot; the VMM is found by the machine's id alone.
            keep: What else stays.
        """
        logger.debug("discarding machine %s of slot %d", machine_id, slot)
        await self._end(machine_id)
        self._turns.give_back(machine_id)
        directory = self._places.directory(machine_id)
        for name in _LEFT_OF_A_BOOT:
            (directory / name).unlink(missing_ok=True)
        self._places.swap(machine_id).unlink(missing_ok=True)
        if keep != "all":
            self._places.cache(machine_id).unlink(missing_ok=True)
            for volume in self._places.volumes(machine_id).values():
                volume.unlink(missing_ok=True)
            await asyncio.to_thread(self._snapshots.remove, machine_id, memory=True)
        if keep == "nothing":
            self._places.scratch(machine_id).unlink(missing_ok=True)

    async def forget(self, machine_id: str) -> None:
        """Remove the machine's directory, logs included."""
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, self._places.directory(machine_id))

    async def observed(self) -> frozenset[str]:
        """Return the ids of machines whose shim runs."""
        return frozenset(running.shims(self._places.machines))

    async def ran_out(self, machine_id: str) -> bool:
        """Tell whether the kernel killed the VMM for want of memory; asked before `discard`."""
        return self._cgroups.ran_out(machine_id)

    async def halted(self) -> frozenset[str]:
        """Return the ids of machines of which somebody stopped the shim or the VMM."""
        return await asyncio.to_thread(standstill.machines, self._places.machines, self._cgroups)

    async def carry_on(self, machine_id: str) -> None:
        """Ensure that what somebody stopped of a machine goes on."""
        where = self._places.machines
        await asyncio.to_thread(standstill.end, where, self._cgroups, machine_id)

    def logs_directory(self, machine_id: str) -> Path:
        """Return where the shim keeps the machine's log files."""
        return self._places.directory(machine_id) / "logs"

    def _has_template(self, org_id: str, hardware: ports.Hardware) -> bool:
        return self._copies is not None and self._copies.take(org_id, hardware) is not None

    async def _end_turn(self, machine_id: str, turn: object) -> None:
        """End a machine's turn to boot once its guest says hello, or will not."""
        try:
            with contextlib.suppress(errors.Failure, OSError):
                await self._shims.greeted(machine_id, within_s=_BOOT_DEADLINE_MS["cold"] / 1000)
        finally:
            self._turns.give_back(machine_id, turn)

    async def _copy(self, plan: ports.VmPlan, copies: templates.Templates) -> bool:
        """Start the machine as a copy; return whether that went well. Nothing is left if not."""
        template = copies.take(plan.org_id, plan.hardware)
        if template is None:
            return False
        guest = dataclasses.replace(self._guest(plan), snapshot=template)
        try:
            if _owns_memory(plan) and template.memory is not None:
                memory = self._snapshots.memory(plan.machine_id)
                await asyncio.to_thread(disks.clone, template.memory, memory, mode=0o666)
                guest = dataclasses.replace(guest, own_memory=memory)
            await self._start(plan, guest, "warm")
        except (errors.Failure, OSError) as error:
            logger.warning("machine %s boots, for its template fails: %s", plan.machine_id, error)
            copies.distrust(template)
            await self._end(plan.machine_id)
            self._places.exit_record(plan.machine_id).unlink(missing_ok=True)
            return False
        copies.trust(template)
        return True

    async def _goes_on(self, machine_id: str, pid: int) -> bool:
        """Tell whether a machine whose shim is there comes up; end what does not.

        An agent that was killed after it started a copy leaves one that goes on by itself, or one
        that nobody told what to go on from.
        """
        await self._shims.listening(machine_id, pid)
        asked = await self.connect(machine_id)
        if asked is None:
            return True
        try:
            status = await asked.status()
        finally:
            await asked.close()
        if status.start_kind == "cold" or status.phase != "booting":
            return True
        try:
            await self._shims.greeted(machine_id, within_s=_GREETED_S)
        except errors.Failure:
            await self._end(machine_id)
            self._places.exit_record(machine_id).unlink(missing_ok=True)
            return False
        return True

    async def _start(
        self, plan: ports.VmPlan, guest: hypervisor.Guest, kind: hypervisor.Start
    ) -> None:
        """Start shim and VMM; a guest that goes on from a saved state has said hello then."""
        limits = cgroups.limits(plan.resources, self._vmm.overhead_mb)
        places.make_private(self._places.sockets)
        procs = self._cgroups.ensure(plan.machine_id, limits)
        config = self._config(plan, guest, kind, procs)
        told = None if kind == "resumed" else _told(plan).model_dump_json().encode()
        with self._vmm.launch(guest) as launch:
            pid = self._shims.start(config, launch, told)
        self._cgroups.confine_shim(plan.machine_id, pid)
        try:
            await self._vmm.begin(guest)
        except errors.Failure as error:
            said = f"{error.message}; its shim: {self._shims.said(plan.machine_id)}"
            raise errors.Failure(error.code, said) from error
        if kind != "resumed":
            await self._balloons.fill(plan.machine_id, plan.resources)
        await self._shims.listening(plan.machine_id, pid)
        if kind != "cold":
            await self._shims.greeted(plan.machine_id, within_s=_GREETED_S)

    def _config(
        self,
        plan: ports.VmPlan,
        guest: hypervisor.Guest,
        kind: hypervisor.Start,
        procs: tuple[str, ...],
    ) -> shim.ShimConfig:
        directory = self._places.directory(plan.machine_id)
        return shim.ShimConfig(
            machine_id=plan.machine_id,
            instance_id=plan.instance_id,
            org_id=plan.org_id,
            directory=str(directory),
            socket=str(self._places.socket(plan.machine_id)),
            channel_socket=str(guest.channel),
            run_spec=None if kind == "resumed" else shims.RUN_SPEC,
            boot_deadline_ms=_BOOT_DEADLINE_MS[kind],
            start_kind=kind,
            vmm=shim.Vmm(argv=(), uid=guest.uid, gid=guest.uid, cgroup_procs=procs),
            log=self.log_limits,
        )

    def _guest(self, plan: ports.VmPlan) -> hypervisor.Guest:
        scratch = self._places.scratch(plan.machine_id)
        hardware = plan.hardware
        files: dict[ports.FurtherDisk, Path] = {
            "swap": self._places.swap(plan.machine_id),
            "cache": self._places.cache(plan.machine_id),
            **dict(zip(ports.IMAGE_DISKS, plan.images, strict=False)),
            **self._places.volumes(plan.machine_id),
        }
        further = {disk: files[disk] for disk in hardware.disks}
        return hypervisor.Guest(
            name=plan.machine_id,
            slot=plan.slot,
            uid=self._first_uid + slots.check(plan.slot),
            resources=hardware.resources,
            disks=hardware.disks,
            kernel_arguments=hardware.kernel_arguments,
            lasting_root=hardware.lasting_root,
            channel=self._places.channel(plan.machine_id),
            monitor=self._places.monitor(plan.machine_id),
            devices=hypervisor.Devices(plan.image, scratch, plan.tap, further),
        )

    async def _end(self, machine_id: str) -> None:
        is_vmm = self._vmm.is_vmm(machine_id, self._uids)
        await self._shims.end(machine_id, is_vmm, self._cgroups)
        await asyncio.to_thread(self._vmm.clean, machine_id)

    async def _lull(self, asked: session.Session, machine_id: str, instance_id: str) -> None:
        """Have the guest fall silent.

        Raises:
            Failure: It is not the one that is meant, not running, or does not answer.
        """
        status = await asked.status()
        if status.instance_id != instance_id or status.phase != "running":
            raise errors.Failure("failed_precondition", "it is not running")
        if not self._places.monitor(machine_id).exists():
            raise errors.Failure("failed_precondition", "it was started by an older release")
        await asked.send({"type": "sleep"})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASLEEP_S):
                async for status in asked.changes():
                    if status.asleep:
                        return
        raise errors.Failure("failed_precondition", "its init does not answer")

    async def _save(self, machine_id: str, instance_id: str) -> None:
        monitor = self._places.monitor(machine_id)
        await self._vmm.pause(monitor)
        into = self._snapshots.begin(machine_id)
        files = await self._vmm.save(monitor, into)
        saved = self._saved(machine_id, instance_id)
        whole = await asyncio.to_thread(self._snapshots.settle, saved, files)
        # Not in the thread, which goes on when a stop breaks this off and the VM runs on.
        self._snapshots.note(whole)

    async def _rouse(self, asked: session.Session, machine_id: str) -> None:
        """Let a machine that could not be saved run on."""
        self._snapshots.remove(machine_id, memory=False)
        with contextlib.suppress(errors.Failure):
            await self._vmm.go_on(self._places.monitor(machine_id))
        with contextlib.suppress(ConnectionError):
            await asked.send({"type": "wake"})

    def _saved(self, machine_id: str, instance_id: str) -> snapshots.Saved:
        return snapshots.Saved(
            machine_id=machine_id,
            instance_id=instance_id,
            build=self._vmm.build,
            cpu=snapshots.host_cpu(),
            state_bytes=0,
        )


def _owns_memory(plan: ports.VmPlan) -> bool:
    """Tell whether a machine's memory lies in a file of its own, not in a view of a template's.

    One that may be suspended is saved without a copy; one that may grow has a balloon, which
    gives pages back by holes in the file.
    """
    return plan.suspendable or plan.resources.max_memory_mb > 0


def _told(plan: ports.VmPlan) -> guest_wire.RunSpec:
    """Return what init is told: the plan's, with the hardware address of the machine's slot."""
    network = plan.run_spec.network.model_copy(update={"mac": slots.guest_mac(plan.slot)})
    return plan.run_spec.model_copy(update={"network": network})
