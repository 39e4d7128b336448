"""Machines replaced one after the other under steady load: drain, stop, start; nothing fails.

The machines are processes of the app that the end-to-end tests put into microVMs; this is the
edge's part of a deploy.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from godwit.base import tasks
from godwit.testing.load import Load, Shape
from godwit.wire import facts
from tests.host import rust_components as parts
from tests.host.edge_lab import Lab, make_lab  # noqa: F401

pytestmark = pytest.mark.host

APP = parts.ROOT / "tests" / "apps" / "steady" / "steady.py"


@dataclass
class Machine:
    """A machine of the app: its fact and its process."""

    lab: Lab
    fact: facts.MachineFact
    process: asyncio.subprocess.Process | None = None

    def say(self, **changes: object) -> None:
        self.lab.agent.say(self.fact.model_copy(update=changes))

    async def start(self) -> None:
        """Start the process; say so once it listens."""
        mine = {"HOST": self.fact.local_ipv4, "PORT": str(self.lab.app_port)}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(APP),
            env=os.environ | mine | {"FLY_MACHINE_ID": self.fact.machine_id},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(parts.PATIENCE_S):
            assert b"listens" in await self.process.stdout.readline()
        self.say()

    async def replace(self) -> None:
        """Do what a deploy and a host's agent do."""
        self.say(draining=True, cordoned=True)
        async with asyncio.timeout(parts.PATIENCE_S):
            while (await self.lab.agent.count(self.fact.machine_id))[0]:
                await asyncio.sleep(0.02)
        self.say(state="replacing")
        await self.lab.agent.count(self.fact.machine_id)
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(parts.PATIENCE_S):
                await self.process.wait()


@pytest.fixture
async def machines(lab: Lab) -> AsyncIterator[list[Machine]]:
    made = [Machine(lab, lab.machine(f"m{n}", state="starting")) for n in range(2)]
    made = [Machine(lab, one.fact.model_copy(update={"state": "started"})) for one in made]
    for machine in made:
        await machine.start()
    yield made
    for machine in made:
        await machine.stop()


async def tunnels(lab: Lab, machines: list[Machine]) -> int:
    counts = [await lab.agent.count(machine.fact.machine_id) for machine in machines]
    return sum(tunnels for _, tunnels in counts)


async def test_machines_replaced_in_turn_under_load_fail_no_request(
    lab: Lab, machines: list[Machine]
) -> None:
    await lab.start()
    load = Load(
        ("127.0.0.1", lab.port),
        "hello.godwit.localhost",
        Shape(clients=3, pause_s=0.02, slow=3, slow_s=1.0, echo_every_s=0.02),
    )
    async with tasks.Tasks("test") as owned:
        running = owned.spawn(load.run(), name="load")
        await load.more(50)
        # Each WebSocket is open before a machine goes.
        async with asyncio.timeout(parts.PATIENCE_S):
            while await tunnels(lab, machines) < 3:
                await asyncio.sleep(0.02)
        for machine in machines:
            await machine.replace()
            await load.more(50)
        load.stop()
        await running
    assert load.tally.failed == 0, load.tally.sentence()
    assert set(load.tally.good) == {"kept", "fresh", "posts", "slow", "echoes"}
    assert load.tally.reopened >= 3
