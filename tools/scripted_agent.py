"""A real agent over scripted VMs: `python -m tools.scripted_agent MACHINES`.

The agent is real, and so is what it does while machines idle: lifecycle, journal, database on
disk, publisher, a real bus; a connection to every machine's shim (`tools.scripted_shims`, in a
process of its own), a TCP check of each, the CPU accounts and the meter over files as the
kernel's, the search for stopped processes. Prints `ready` once every machine runs, then idles
until its standard input ends.

What it does not show: taps, VMs and images being made, and `/proc` with two more processes for
each machine, which is read every half minute. Against that, the fakes of network, images and VMs
live in this process and count as the agent's.
"""

import asyncio
import contextlib
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from godwit.agent import app, books, meters, ports
from godwit.agent.machines import views
from godwit.agent.vmm import cgroups, session, standstill
from godwit.base import clock, tasks
from godwit.bus import connection, facts, rpc
from godwit.durable import database
from godwit.host import bus_config, identity
from godwit.testing import agents
from godwit.testing.vmm import FakeVmm, Machinery
from godwit.testing.world import FakeImages, FakeNetwork, Hands, World
from godwit.wire import host_rpc
from tools import scripted_shims

_NATS = str(Path(sys.executable).parent / "nats-server")
_REGION = "lcl"
_UP_S = 30.0
_ALL_RUN_S = 600.0
_AT_ONCE = 32


class ShimmedVmm(FakeVmm):
    """VMs that run nothing, behind shims that are asked by real sessions."""

    def __init__(self, hands: Hands, machinery: Machinery, folder: Path) -> None:
        super().__init__(hands, machinery, folder / "logs")
        self._world = hands.world
        self._folder = folder
        self._groups = cgroups.Cgroups("scripted")

    async def connect(self, machine_id: str) -> session.Session | None:  # type: ignore[override]
        """Return a session, if there is a shim."""
        if machine_id not in self._world.vms:
            return None
        path = scripted_shims.socket_of(self._folder / "m", machine_id)
        return await session.Session.open(machine_id, path)

    async def halted(self) -> frozenset[str]:
        """Look through the processes of this host."""
        return await asyncio.to_thread(standstill.machines, self._folder, self._groups)


class FileCpu:
    """The kernel's CPU counters and quotas, a file each as in a cgroup."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def used_us(self, machine_id: str) -> int | None:
        """Return the CPU time used: none."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / machine_id).read_text()
        return 0

    def throttled_us(self, machine_id: str) -> int:
        """Return how long it was held back."""
        return self.used_us(machine_id) or 0

    def generation(self, machine_id: str) -> int:
        """Return the one boot of every machine."""
        del machine_id
        return 1

    def set_quota(self, machine_id: str, quota: int) -> None:
        """Write it down."""
        (self._folder / machine_id).write_text(str(quota))


class LoopbackNetwork(FakeNetwork):
    """Taps as a set of slots; every machine is checked at the loopback address."""

    def local_ipv4(self, plumbing: ports.Plumbing) -> str:
        """Return it."""
        del plumbing
        return "127.0.0.1"


def parts(folder: Path, who: identity.HostIdentity) -> app.Parts:
    """Return an agent's parts: a world of fakes, everything else real."""
    world = World()
    hands, system = Hands(world), clock.SystemClock()
    cpu = FileCpu(folder / "cpu")
    return app.Parts(
        identity=views.Identity(who.host_id, who.region, who.zone, who.epoch),
        capacity=books.Capacity(memory_mb=10**9, cpus=10**6, cpu_overcommit=16.0, overhead_mb=16),
        images=FakeImages(hands),
        network=LoopbackNetwork(hands),
        vmm=ShimmedVmm(hands, Machinery(world, system), folder),
        clock=system,
        database=database.Database(folder / "agent.db", app.SCHEMA),
        catalog_socket=folder / "catalog.sock",
        meter=meters.HostMeter(cpu, folder / "machines"),
        cpu=cpu,
    )


@contextlib.asynccontextmanager
async def bus(folder: Path) -> AsyncIterator[tuple[identity.HostIdentity, identity.Keys, str]]:
    """Run a bus of this agent's own."""
    who, keys = identity.ensure(folder, _REGION, "0000")
    listen = "127.0.0.1:14222"
    config = folder / "bus.conf"
    server = bus_config.Server(who.host_id, who.region, listen, folder / "bus")
    config.write_text(bus_config.render(server, [bus_config.this_member(who, keys)]))
    server = await asyncio.create_subprocess_exec(
        _NATS, "-c", str(config), "--log", str(folder / "bus.log")
    )
    try:
        yield who, keys, f"nats://{listen}"
    finally:
        server.kill()
        await server.wait()


@contextlib.asynccontextmanager
async def shims(folder: Path, machines: int) -> AsyncIterator[int]:
    """Run the machines' shims; yield the port of their checks."""
    (folder / "m").mkdir()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.scripted_shims", str(folder / "m"), str(machines)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        yield int(await server.stdout.readline())
    finally:
        server.kill()
        await server.wait()


async def fill(agent: app.App, machines: int, port: int) -> None:
    """Take on machines, several at once, and return when all of them run."""
    turn = asyncio.Semaphore(_AT_ONCE)
    check = {"type": "tcp", "port": port, "interval": "15s", "timeout": "2s"}
    config = {"restart": {"policy": "no"}, "checks": {"alive": check}}

    async def take(number: int) -> None:
        machine_id = scripted_shims.machine_id(number)
        async with turn:
            offer = agents.offer(machine_id, config=config)
            await agent.machines.reserve(agents.OPERATOR, offer)
            asked = host_rpc.WaitRequest(machine_id=machine_id, states=("started",))
            body = asked.model_dump(mode="json")
            await agent.handlers()["machine.wait"](agents.OPERATOR, body)

    async with asyncio.timeout(_ALL_RUN_S), asyncio.TaskGroup() as taking:
        for number in range(machines):
            taking.create_task(take(number))


async def main(machines: int) -> None:
    """Run until standard input ends."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        async with (
            shims(folder, machines) as port,
            bus(folder) as (who, keys, url),
            tasks.Tasks("agent") as owned,
        ):
            made = parts(folder, who)
            agent = app.App(made, owned)
            await agent.start()
            link = await connection.connect([url], keys.seed("host"), who.host_id)
            assert await link.wait_up(_UP_S)
            control = await connection.connect([url], keys.seed("control"), "control")
            assert await control.wait_up(_UP_S)
            await facts.FactStream(control, _REGION).ensure()
            await control.close()
            await rpc.serve(link, owned, who.host_id, agent.handlers())
            agent.publish_to(facts.FactStream(link, _REGION))
            await fill(agent, machines, port)
            print("ready", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            await link.close()
            await owned.cancel()
        if isinstance(made.database, database.Database):
            await made.database.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
