"""A host with its network and its VMM driver, and real machines on it, for tests in a namespace."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from godwit.agent import ports
from godwit.agent.network import rules
from godwit.agent.network.host_network import HostNetwork
from godwit.agent.vmm import cgroups, driver, guestkit, probe, qemu, templates, turns
from godwit.agent.vmm.hypervisor import Hypervisor, Rates
from godwit.agent.vmm.session import Session
from godwit.base import clock, settings
from godwit.wire import guest, host_rpc, shim
from tests.host import network_lab as lab
from tests.vm.guest import make_image

PATHS = settings.from_process().paths
PROGRAMS, CACHE = PATHS.programs, PATHS.cache
HOST_NUMBER = 65_537
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S = 240.0


def make_hypervisor(
    places: driver.Places, kit: guestkit.GuestKit, rates: Rates | None
) -> Hypervisor:
    """Return the VMM of every test here; `test_firecracker.py` puts another in its place."""
    del places
    return qemu.Qemu(kit, probe.Accelerator("tcg", "tests run anywhere"), rates)


@dataclass
class Machine:
    """One machine, its plan and, while it runs, a session with its shim."""

    host: "Host"
    plan: ports.VmPlan
    plumbing: ports.Plumbing
    session: Session | None = None

    @property
    def id(self) -> str:
        return self.plan.machine_id

    @property
    def six(self) -> str:
        return self.host.network.private_ip(self.plumbing)

    @property
    def four(self) -> str:
        return self.host.network.local_ipv4(self.plumbing)

    async def boot(self) -> shim.Status:
        """Start it as the agent does; return the status with which its process ran."""
        await self.host.network.plumb(self.plumbing)
        kept: ports.Kept = "root" if self.plan.lasting_root else "nothing"
        await self.host.vmm.discard(self.id, self.plan.slot, keep=kept)
        await self.host.vmm.await_turn(self.id, self.plan.org_id, self.plan.hardware)
        await self.host.vmm.prepare(self.plan)
        await self.host.vmm.spawn(self.plan)
        self.session = await self.host.vmm.connect(self.id)
        return await self.phase("running")

    async def phase(self, wanted: str) -> shim.Status:
        """Return the status once the machine has come that far."""
        assert self.session is not None
        status = None
        async with asyncio.timeout(BOOT_S):
            async for status in self.session.changes():
                if status.phase == wanted:
                    return status
        raise AssertionError(f"the machine never was {wanted}: {status}\n{self.log()}")

    async def ended(self) -> shim.ExitRecord:
        """Return how it ended, once its shim is gone too."""
        assert self.session is not None
        async with asyncio.timeout(BOOT_S):
            async for _ in self.session.changes():
                pass
        record = await self.host.vmm.exit_record(self.id, self.plan.instance_id)
        assert record is not None
        return record

    async def run(self, script: str, *, timeout_s: float = 120, **more) -> host_rpc.ExecAnswer:
        """Run a shell script in it."""
        assert self.session is not None
        request = host_rpc.ExecRequest(
            machine_id=self.id, command=("sh", "-c", script), timeout_s=timeout_s, **more
        )
        return await self.session.exec(request, {"PATH": PATH})

    def log(self) -> str:
        """Return its log as it lies on disk."""
        path = self.host.vmm.logs_directory(self.id) / "current.jsonl"
        return path.read_text() if path.exists() else ""

    async def says(self, line: str) -> None:
        """Return once the machine has logged that line."""
        async with asyncio.timeout(BOOT_S):
            while f'"m":"{line}"' not in self.log():
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Let go of the session."""
        if self.session is not None:
            await self.session.close()
            self.session = None


@dataclass
class Host:
    """Everything one agent has, without the agent."""

    network: HostNetwork
    vmm: driver.HostVmm
    groups: cgroups.Cgroups
    places: driver.Places
    kit: guestkit.GuestKit
    image: Path
    world: lab.World
    policy: rules.Policy
    machines: list[Machine] = field(default_factory=list)

    def another_vmm(self, copies: templates.Templates | None = None) -> driver.HostVmm:
        """Return what a restarted agent would have."""
        return driver.HostVmm(self.places, self.hypervisor(), self.groups, copies=copies)

    async def start_warm(self, machine: Machine, copies: templates.Templates) -> None:
        """End a machine, and have what starts from now on be a copy of one like it."""
        await machine.close()
        await self.vmm.discard(machine.id, machine.plan.slot)
        await copies.make(machine.plan.org_id, machine.plan.hardware)
        self.vmm = self.another_vmm(copies)

    def of_another_agent(self) -> "Host":
        """Return this host as the agent of another process has it."""
        network = HostNetwork(HOST_NUMBER, run_dir=self.places.run_dir, policy=self.policy)
        return replace(self, network=network, vmm=self.another_vmm(), machines=[])

    def hypervisor(self) -> Hypervisor:
        """Return the VMM that tests run with."""
        return make_hypervisor(self.places, self.kit, None)

    def templates(self, at_once: turns.Turns | None = None) -> templates.Templates:
        """Return what makes templates here."""
        made = self.hypervisor()
        time = clock.SystemClock()
        return templates.Templates(
            self.places, made, self.groups, time, uid=2_000_000, at_once=at_once
        )

    def machine(
        self,
        slot: int,
        *,
        network: int = 1,
        script: str = "sleep 1000",
        resources: host_rpc.Resources | None = None,
        image: Path | None = None,
        swap_bytes: int = 0,
        cache_bytes: int = 0,
        kernel_arguments: tuple[str, ...] = (),
        lasting_root: bool = False,
    ) -> Machine:
        """Return a machine that is not there yet."""
        machine_id = f"{slot:014x}"
        plumbing = ports.Plumbing(machine_id, f"org{network}", f"net{network}", network, slot)
        spec = guest.RunSpec(
            machine_id=machine_id,
            hostname=machine_id,
            network=self.network.guest_network(plumbing),
            root=guest.Root(lasting=lasting_root),
            swap=guest.Swap() if swap_bytes else None,
            mounts=(guest.CACHE,) if cache_bytes else (),
            process=guest.Process(argv=("sh", "-c", script), env={"PATH": PATH}),
        )
        plan = ports.VmPlan(
            machine_id=machine_id,
            instance_id="01K8",
            org_id=plumbing.org_id,
            app_id=f"app{network}",
            slot=slot,
            tap=plumbing.tap,
            resources=resources or host_rpc.Resources(memory_mb=256),
            image=image or self.image,
            scratch_bytes=1 << 28,
            run_spec=spec,
            swap_bytes=swap_bytes,
            cache_bytes=cache_bytes,
            kernel_arguments=kernel_arguments,
            lasting_root=lasting_root,
            keep_scratch=lasting_root,
        )
        made = Machine(self, plan, plumbing)
        self.machines.append(made)
        return made


@contextlib.asynccontextmanager
async def host(rates: Rates | None = None, **policy: object) -> AsyncIterator[Host]:
    """Yield a host in this namespace; whatever happens, nothing of it is left."""
    kit = await guestkit.ensure(CACHE, PROGRAMS)
    with tempfile.TemporaryDirectory(prefix="gwvm-") as name:
        async with _host_in(Path(name), kit, rates, policy) as made:
            yield made


@contextlib.asynccontextmanager
async def _host_in(
    folder: Path, kit: guestkit.GuestKit, rates: Rates | None, policy: dict[str, object]
) -> AsyncIterator[Host]:
    places = driver.Places(folder / "store", folder, PROGRAMS / "godwit-shim")
    groups = cgroups.Cgroups(f"test-{folder.name}")
    vmm = driver.HostVmm(places, make_hypervisor(places, kit, rates), groups)
    async with lab.world() as world:
        packets = rules.Policy(**policy)
        network = HostNetwork(HOST_NUMBER, run_dir=folder, policy=packets)
        await network.start()
        image = make_image(folder)
        made = Host(network, vmm, groups, places, kit, image, world, packets)
        try:
            yield made
        finally:
            for machine in made.machines:
                await machine.close()
                await vmm.discard(machine.id, machine.plan.slot)
            await network.stop()
