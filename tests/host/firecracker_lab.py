"""A host whose machines run under Firecracker: the real driver and shim, programs as they come."""

import asyncio
import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from godwit.agent import ports, slots
from godwit.agent.vmm import cgroups, driver, hypervisor, running, templates
from godwit.agent.vmm.firecracker import programs
from godwit.agent.vmm.firecracker.vmm import Firecracker
from godwit.agent.vmm.session import Session
from godwit.base import clock, processes, settings
from godwit.wire import guest, host_rpc, shim

FIRST_UID = 2_000_000
SHIM = settings.from_process().paths.programs / "godwit-shim"
_WAIT_S = 120.0
_SCRIPT = """#!{python}
import sys
from godwit.testing import firecracker_process
sys.exit(firecracker_process.main(sys.argv))
"""


@dataclass(frozen=True)
class Kit:
    """What guests boot from; the fake's guests do not mind what is in it."""

    kernel: Path
    initramfs: Path


def fake_programs(folder: Path) -> programs.Programs:
    """Make the fake programs; return them as found."""
    folder.mkdir()
    for name in ("firecracker", "jailer"):
        path = folder / name
        path.write_text(_SCRIPT.format(python=sys.executable))
        path.chmod(0o755)
    return programs.Programs(folder / "firecracker", folder / "jailer", "1.16.1", "10.0.0")


@dataclass
class Machine:
    """One machine of the host."""

    host: "Host"
    plan: ports.VmPlan

    @property
    def id(self) -> str:
        return self.plan.machine_id

    @property
    def jail(self) -> Path:
        installed = self.host.vmm_programs.firecracker.name
        return self.host.places.store / "jails" / installed / f"godwit-{self.id}" / "root"

    async def start(self) -> shim.Status:
        await self.host.vmm.prepare(self.plan)
        await self.host.vmm.spawn(self.plan)
        return await self.phase("running")

    async def session(self) -> Session:
        made = await self.host.vmm.connect(self.id)
        assert made is not None
        return made

    async def phase(self, wanted: str) -> shim.Status:
        """Return the status once the machine has come that far."""
        made = await self.session()
        status = None
        try:
            async with asyncio.timeout(_WAIT_S):
                async for status in made.changes():
                    if status.phase == wanted:
                        return status
        finally:
            await made.close()
        raise AssertionError(f"the machine never was {wanted}: {status}")

    async def told(self) -> dict[str, Any]:
        """Return what is behind the guest's devices and in its memory, as the fake tells it."""
        made = await self.session()
        try:
            request = host_rpc.ExecRequest(machine_id=self.id, command=("told",), timeout_s=60)
            answer = await made.exec(request, {})
        finally:
            await made.close()
        found = json.loads(answer.stdout)
        assert isinstance(found, dict)
        return found

    async def ended(self) -> shim.ExitRecord:
        """Return how it ended, once its shim is gone."""
        async with asyncio.timeout(_WAIT_S):
            while (
                record := await self.host.vmm.exit_record(self.id, self.plan.instance_id)
            ) is None:
                await asyncio.sleep(0.01)
        return record

    def log(self) -> str:
        path = self.host.vmm.logs_directory(self.id) / "current.jsonl"
        return path.read_text() if path.exists() else ""


@dataclass
class Host:
    """A host in a folder."""

    places: driver.Places
    groups: cgroups.Cgroups
    vmm: driver.HostVmm
    hypervisor: Firecracker
    vmm_programs: programs.Programs
    copies: templates.Templates
    image: Path
    machines: list[Machine] = field(default_factory=list)

    def machine(self, slot: int, *, scratch_mb: int = 16, **more: Any) -> Machine:
        """Return a machine that is not there yet; its tap is."""
        tap = slots.tap_name(slot)
        slots.create_tap(tap, FIRST_UID + slot)
        plan = ports.VmPlan(
            machine_id=f"{slot:014x}",
            instance_id="01K8",
            org_id="org_1",
            app_id="app_1",
            slot=slot,
            tap=tap,
            resources=host_rpc.Resources(memory_mb=128),
            image=self.image,
            scratch_bytes=scratch_mb << 20,
            run_spec=guest.RunSpec(
                machine_id="m", hostname="h", process=guest.Process(argv=("sleep", "1000"))
            ),
        )
        made = Machine(self, replace(plan, **more))
        self.machines.append(made)
        return made

    def guest_of(self, machine: Machine) -> hypervisor.Guest:
        """Return a machine as its VMM is told of it."""
        return self.vmm._guest(machine.plan)

    @contextlib.asynccontextmanager
    async def launched(self, guest: hypervisor.Guest) -> AsyncIterator[int]:
        """Yield the pid of a VMM without a shim."""
        with self.hypervisor.launch(guest) as launch:
            words = ("launch", str(os.getpid()), str(launch.uid), str(launch.gid), "", "--")
            pid = processes.detach(
                [str(SHIM), *words, *launch.argv], stderr=2, descriptors={}, env={}
            )
        try:
            yield pid
        finally:
            uids = range(guest.uid, guest.uid + 1)
            is_it = self.hypervisor.is_vmm(guest.name, uids)
            await running.end(running.pids(), is_it, within_s=5)
            self.hypervisor.clean(guest.name)

    def leftovers(self) -> list[str]:
        """Return what is left of machines that were discarded."""
        homes = [str(path) for path in (self.places.store / "jails").glob("*/godwit-*")]
        return [*homes, *self.groups.machines(), *map(str, self.places.sockets.iterdir())]


@contextlib.asynccontextmanager
async def host(
    installed: programs.Programs | None = None, kit: Kit | None = None
) -> AsyncIterator[Host]:
    """Yield a host in this network namespace; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="gwfc-") as name:
        folder = Path(name)
        kit = kit or _no_kit(folder)
        installed = installed or fake_programs(folder / "bin")
        places = driver.Places(folder / "store", folder / "run", SHIM)
        groups = cgroups.Cgroups(f"test-{folder.name}")
        (folder / "store" / "jails").mkdir(parents=True)
        jailed = Firecracker(installed, kit, folder / "store" / "jails")
        copies = templates.Templates(places, jailed, groups, clock.SystemClock(), uid=FIRST_UID)
        vmm = driver.HostVmm(places, jailed, groups, first_vm_uid=FIRST_UID)
        image = folder / "store" / "root.erofs"
        with image.open("wb") as file:
            file.truncate(1 << 20)
        made = Host(places, groups, vmm, jailed, installed, copies, image)
        try:
            yield made
        finally:
            for machine in made.machines:
                await vmm.discard(machine.id, machine.plan.slot)


def _no_kit(folder: Path) -> Kit:
    for name in ("vmlinux", "initramfs"):
        (folder / name).write_bytes(b"nothing to boot")
    return Kit(folder / "vmlinux", folder / "initramfs")


def devices(jail: Path) -> dict[str, tuple[int, int]]:
    """Return the device nodes of a jail with their owners and numbers."""
    return {
        str(path.relative_to(jail)): (path.stat().st_uid, os.minor(path.stat().st_rdev))
        for path in jail.rglob("*")
        if stat.S_ISCHR(path.lstat().st_mode)
    }


def real_programs() -> tuple[str, str] | None:
    """Return the real programs' paths, if both are on the PATH."""
    found = shutil.which("firecracker"), shutil.which("jailer")
    return (found[0], found[1]) if found[0] and found[1] else None
