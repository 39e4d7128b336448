"""Agents over one world: start one, kill it at any write, start the next.

A kill severs the agent from world and database at once; what its tasks still try is cut off.
VMs, taps and the database file go on.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.agent import books, footprint
from godwit.agent.machines import lifecycle, registry, secrets, store, waits, work
from godwit.agent.machines.driver import Driver
from godwit.base import principal, tasks
from godwit.durable import database, journal
from godwit.testing.clock import FakeClock
from godwit.testing.vmm import FakeVmm, Machinery
from godwit.testing.world import FakeControl, FakeImages, FakeNetwork, Hands, Killed, World
from godwit.wire import host_rpc

T = TypeVar("T")

SCHEMA: database.Schema = {"journal": journal.SCHEMA, "agent": store.SCHEMA}
OPERATOR = principal.component("test")
DIGEST = "sha256:" + "1" * 64


class InlineDatabase:
    """A database that works in the calling thread, and can kill its agent at a write.

    Attributes:
        writes: Writes so far.
        kill_at: (n, when): the agent dies `before` or `after` its n-th write.
        trouble: What every write meets, a full disk for example.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        hands: Hands,
        kill_at: tuple[int, str] | None = None,
        on_kill: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._hands = hands
        self._on_kill = on_kill
        self.kill_at = kill_at
        self.trouble: sqlite3.Error | None = None
        self.writes = 0

    async def write(self, work: database.Work[T], *, synced: bool = True) -> T:
        """Run work in a transaction."""
        self._hands.check()
        await asyncio.sleep(0)
        self._hands.check()
        if self.trouble is not None:
            raise self.trouble
        self.writes += 1
        self._maybe_die("before")
        result = database.transact(self._connection, work, synced=synced)
        self._maybe_die("after")
        return result

    async def read(self, work: database.Work[T]) -> T:
        """Run work that reads."""
        self._hands.check()
        return work(self._connection)

    def _maybe_die(self, when: str) -> None:
        if self.kill_at == (self.writes, when):
            self._hands.severed = True
            if self._on_kill is not None:
                self._on_kill()
            raise Killed


class Agent:
    """One life of an agent."""

    def __init__(self, host: "FakeHost", kill_at: tuple[int, str] | None) -> None:
        self.killed = asyncio.Event()
        self.hands = Hands(host.world)
        self.database = InlineDatabase(host.connection, self.hands, kill_at, self.killed.set)
        self.tasks = tasks.Tasks("agent")
        self.books = books.Books(host.capacity)
        self.vmm = FakeVmm(self.hands, host.machinery)
        self.host = work.Host(
            host_id="a1b2c3d4",
            region="lcl",
            images=FakeImages(self.hands),
            network=FakeNetwork(self.hands),
            vmm=self.vmm,
            clock=host.clock,
            random=lambda count: b"\x07" * count,
            database=self.database,
            event_ids=store.EventIds(host.clock),
            log=self.hands,
            control=FakeControl(self.hands),
            secrets=secrets.Secrets(self.database, host.sealing),
            last_words=self.hands.last_words,
        )
        self.journal = journal.Journal(self.database, host.clock)
        self.machines = registry.Machines(self.host, self.journal, self.books, self.tasks)

    async def start(self) -> None:
        """Recover."""
        await self.machines.recover()

    async def kill(self) -> None:
        """Die at once."""
        self.hands.severed = True
        await self.bury()

    async def bury(self) -> None:
        """End the tasks of a dead agent; none of them reaches world or database any more."""
        self.hands.severed = True
        await self.tasks.cancel()

    def driver(self, machine_id: str) -> Driver:
        """Return a machine's driver."""
        return self.machines.get(OPERATOR, machine_id)

    async def create(self, machine_id: str, **changes: Any) -> Driver:
        """Offer a machine."""
        return await self.machines.reserve(OPERATOR, offer(machine_id, **changes))

    async def ask(self, machine_id: str, request: lifecycle.Request, **given: Any) -> str:
        """Ask a machine for something."""
        return await self.driver(machine_id).ask(request, given)

    async def rest(self, machine_id: str, within_s: float = 3600.0) -> str:
        """Wait until the machine rests; return its state."""
        async with asyncio.timeout(within_s):
            while (driver := self.driver(machine_id)).run is not None:
                await driver.next_change()
        return self.driver(machine_id).snapshot.shown

    async def reach(self, machine_id: str, *states: str, within_s: float = 3600.0) -> str:
        """Wait for one of these states to be the present one."""
        async with asyncio.timeout(within_s):
            while (driver := self.driver(machine_id)).snapshot.shown not in states:
                await driver.next_change()
        return driver.snapshot.shown

    async def wait(self, machine_id: str, *states: str) -> waits.Answer:
        """Wait as clients do."""
        return await self.driver(machine_id).wait(waits.Wanted(states))


class FakeHost:
    """A host: a world, a database file, and one agent after the other."""

    def __init__(self, path: Path | None = None, *, memory_mb: int = 4096, cpus: int = 4) -> None:
        self.clock = FakeClock()
        self.world = World()
        self.machinery = Machinery(self.world, self.clock)
        self.capacity = books.Capacity(memory_mb, cpus, 16.0, 16)
        self.sealing = X25519PrivateKey.generate()
        self.connection = memory_database() if path is None else database.connect(path, SCHEMA)
        self.agents: list[Agent] = []

    async def agent(self, kill_at: tuple[int, str] | None = None) -> Agent:
        """Start the next agent."""
        self.agents.append(Agent(self, kill_at))
        await self.agents[-1].start()
        return self.agents[-1]

    async def close(self) -> None:
        """End what still runs."""
        for agent in self.agents:
            await agent.bury()
        self.connection.close()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Read stored rows, past all code under test."""
        return [dict(row) for row in self.connection.execute(query)]


def takes_mb(host: FakeHost, memory_mb: int) -> int:
    """Return what a machine takes from its host's memory, all counted."""
    resources = host_rpc.Resources(memory_mb=memory_mb)
    return footprint.memory_mb(resources, host.capacity.overhead_mb)


def memory_database() -> sqlite3.Connection:
    """Return a database in memory with the agent's tables."""
    return database.prepare(sqlite3.connect(":memory:", isolation_level=None), SCHEMA)


def offer(machine_id: str, **changes: Any) -> host_rpc.Offer:
    """Return an offer that an agent takes."""
    given: dict[str, Any] = {
        "machine_id": machine_id,
        "instance_id": f"01V{machine_id}",
        "name": f"quiet-{machine_id}",
        "org_id": "org_a",
        "org_slug": "a",
        "network_id": "net_a",
        "network_number": 1,
        "app_id": "app_a",
        "app": "hello",
        "region": "lcl",
        "image": image(),
        "resources": {"memory_mb": 256},
        "config": {},
    }
    return host_rpc.Offer.model_validate({**given, **changes})


def update(machine_id: str, version: str, **changes: Any) -> dict[str, Any]:
    """Return an update as the RPC hands it to a driver."""
    given: dict[str, Any] = {
        "machine_id": machine_id,
        "instance_id": version,
        "image": image(),
        "resources": {"memory_mb": 256},
        "config": {},
    }
    return host_rpc.Update.model_validate({**given, **changes}).model_dump(mode="json")


def image(digest: str = DIGEST) -> dict[str, Any]:
    """Return an image reference."""
    return {
        "reference": "registry.example/hello:v1",
        "registry": "registry.example",
        "repository": "hello",
        "tag": "v1",
        "digest": digest,
    }
