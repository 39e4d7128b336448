"""One agent put together over a fake host, spoken to as the bus would."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.agent import app, books
from godwit.agent.machines import views
from godwit.base import principal, tasks
from godwit.base.clock import SystemClock
from godwit.durable import database
from godwit.testing import agents, vmm, world

M = "0000000000000a"
N = "0000000000000b"
WHO = principal.component("control")
USER = principal.Principal(
    subject="user:a@example.com", org_ids=frozenset({"org_a"}), scopes=principal.ALL_SCOPES
)
STRANGER = USER.model_copy(update={"org_ids": frozenset({"org_b"})})
READER = USER.model_copy(update={"scopes": frozenset({"machines:read"})})
FAST = world.Boot(boot_s=0.05, stop_s=0.02)


class Bench:
    """An agent with real time, a real database and a real socket, on a fake host.

    A second one with the first one's world and directory is the next agent of the same host.
    """

    def __init__(self, directory: Path, owned: tasks.Tasks, former: "Bench | None" = None) -> None:
        self.clock: SystemClock = SystemClock() if former is None else former.clock
        self.world: world.World = world.World() if former is None else former.world
        self.hands = world.Hands(self.world)
        self.machinery: vmm.Machinery = (
            vmm.Machinery(self.world, self.clock) if former is None else former.machinery
        )
        self.sealing: X25519PrivateKey = (
            X25519PrivateKey.generate() if former is None else former.sealing
        )
        self.database = database.Database(directory / "agent.db", app.SCHEMA)
        self.socket = directory / "catalog.sock"
        self.parts = app.Parts(
            identity=views.Identity("a1b2c3d4", "lcl", "0000", 7),
            capacity=books.Capacity(2048, 4, 16, 16),
            images=world.FakeImages(self.hands),
            network=world.FakeNetwork(self.hands),
            vmm=vmm.FakeVmm(self.hands, self.machinery, directory / "machines"),
            clock=self.clock,
            database=self.database,
            catalog_socket=self.socket,
            sealing_key=self.sealing,
        )
        self.app = app.App(self.parts, owned)
        self.app.ask_control(world.FakeControl(self.hands))
        for machine_id in (M, N):
            self.world.scripts[machine_id].extend([FAST] * 9)

    async def call(self, verb: str, who: principal.Principal = WHO, **body: Any) -> dict[str, Any]:
        answer = await self.app.handlers()[verb](who, json.loads(json.dumps(body)))
        return answer if isinstance(answer, dict) else answer.model_dump(mode="json")

    async def create(self, machine_id: str = M, **changes: Any) -> dict[str, Any]:
        offer = agents.offer(machine_id, **changes)
        return await self.call("machine.reserve", **offer.model_dump(mode="json"))

    async def reach(self, state: str, machine_id: str = M) -> dict[str, Any]:
        return await self.call("machine.wait", machine_id=machine_id, states=[state], timeout_s=5)


@contextlib.asynccontextmanager
async def running(directory: Path, former: Bench | None = None) -> AsyncIterator[Bench]:
    """Run an agent; it ends as one that is told to, leaving its machines running."""
    async with tasks.Tasks("agent") as owned:
        made = Bench(directory, owned, former)
        await made.app.start()
        async with asyncio.timeout(60):
            while not made.socket.exists():
                await asyncio.sleep(0.01)
        yield made
    await made.database.close()
