"""Several edges on loopback, each a host with its own agent, that send requests to one another.

What the bus would tell an edge of the others, it has from the view that its last run left.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from godwit.testing.loopback import free_port
from godwit.wire import components, facts
from tests.host import rust_components as parts
from tests.host.edge_lab import HELLO, PATIENT, Lab, next_address
from tests.host.rust_components import FakeAgent, Running

_numbers = itertools.count(1)


@dataclass
class Server:
    """A host: its edge, its agent and its machines.

    Attributes:
        mesh: Its address in the mesh: one of loopback.
        port: Where it takes backhaul.
    """

    host_id: str
    region: str
    mesh: str
    port: int
    lab: Lab

    @property
    def address(self) -> str:
        return f"{self.mesh}:{self.port}"

    def fact(self) -> facts.HostFact:
        return facts.HostFact(
            owner=self.host_id,
            epoch=1,
            revision=1,
            host_id=self.host_id,
            region=self.region,
            zone="0000",
            backhaul=self.address,
        )

    def machine(self, machine_id: str, **changes: Any) -> facts.MachineFact:
        """Have a machine here; the agent tells its edge of it."""
        of_here = {"host_id": self.host_id, "region": self.region}
        return self.lab.machine(machine_id, **(of_here | changes))

    async def get(self, path: str = "/", **arguments: Any) -> httpx.Response:
        """Ask this host's edge."""
        return await self.lab.get(path, **arguments)


@dataclass
class Servers:
    """All hosts of a test."""

    folder: Path
    hosts: list[Server] = field(default_factory=list)
    limits: components.EdgeLimits = PATIENT

    async def add(self, region: str = "lcl", **changes: Any) -> Server:
        """Add a host; its edge does not run yet."""
        number = next(_numbers)
        host_id = f"{number:08x}"
        folder = self.folder / host_id
        folder.mkdir()
        agent = FakeAgent(folder / "a.sock")
        await agent.start()
        nobody = components.BusClient(
            servers=(f"nats://127.0.0.1:{free_port()}",), seed_file=str(folder / "no.seed")
        )
        app_port = self.hosts[0].lab.app_port if self.hosts else free_port()
        lab = Lab(folder, agent, free_port(), free_port(), app_port, nobody, self.limits)
        server = Server(host_id, region, next_address(), free_port(), lab)
        lab.changes = {
            "host_id": host_id,
            "region": region,
            "backhaul": server.address,
            "region_aliases": {"eu": ("ams", "fra"), "us": ("iad",)},
        } | changes
        self.hosts.append(server)
        return server

    async def start(self, *servers: Server, apps: tuple[facts.AppFact, ...] = ()) -> None:
        """Start the edges of these hosts, or of all, with all they would know of the others."""
        for server in servers or self.hosts:
            await self.start_one(server, apps=apps)

    async def start_one(self, server: Server, *, apps: tuple[facts.AppFact, ...] = ()) -> Running:
        others = [one for one in self.hosts if one is not server]
        known: list[facts.AppFact | facts.MachineFact | facts.HostFact] = [*apps]
        for other in others:
            known += [other.fact(), *other.lab.agent.machines.values()]
        view = server.lab.folder / "view.json"
        parts.keep_view(view, *known, host_id=server.host_id)
        return await server.lab.start(known=sum(len(one.lab.agent.machines) for one in self.hosts))


@contextlib.asynccontextmanager
async def several(tmp_path: Path) -> AsyncIterator[Servers]:
    """Give servers, of which there are none yet, and end those that were."""
    made = Servers(tmp_path)
    try:
        yield made
    finally:
        for server in made.hosts:
            for edge in server.lab.edges:
                await edge.kill()
            with contextlib.suppress(Exception):
                await server.lab.agent.stop()


@pytest.fixture(name="servers")
async def make_servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with several(tmp_path) as made:
        yield made


__all__ = ["HELLO", "Server", "Servers", "make_servers", "several"]
