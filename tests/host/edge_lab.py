"""A godwit-edge process with a fake agent and small apps, for the tests of the edge."""

import asyncio
import contextlib
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from godwit.bus import connection as bus_connection
from godwit.bus.facts import FactStream
from godwit.testing.loopback import free_port
from godwit.wire import components, facts
from tests.host import rust_components as parts
from tests.host.conftest import Bus, until
from tests.host.rust_components import FakeAgent, Request, Running, response

HELLO = {"Host": "hello.godwit.localhost"}
PATIENT = components.EdgeLimits(
    reach_ms=60_000,
    queue_ms=60_000,
    wake_ms=60_000,
    connect_ms=5_000,
    backhaul_connect_ms=5_000,
    backhaul_silence_ms=30_000,
)
"""For requests that are answered."""
QUICK = components.EdgeLimits(reach_ms=1_000, queue_ms=1_000, wake_ms=3_000, connect_ms=500)
"""For requests that are given up."""
CONNECTED = "fly_edge_tcp_connects_count"
"""Counts the connections of clients."""
REFUSED = 'godwit_edge_connect_failures_count{app="hello",org_id="org_1"}'
"""Counts the connections that machines of the app `hello` did not take."""
_addresses = itertools.count(2)


def next_address() -> str:
    """Return an address of loopback that no other machine of this run has."""
    number = next(_addresses)
    return f"127.18.{number // 250}.{number % 250 + 1}"


@dataclass
class Lab:
    """An edge, a fake agent and the ports between them."""

    folder: Path
    agent: FakeAgent
    port: int
    status_port: int
    app_port: int
    bus: components.BusClient
    limits: components.EdgeLimits = PATIENT
    changes: dict[str, Any] = field(default_factory=dict)
    edges: list[Running] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self) -> components.EdgeConfig:
        return components.EdgeConfig.model_validate(
            {
                "host_id": parts.HOST,
                "region": "lcl",
                "apps_domain": "godwit.localhost",
                "listeners": [{"address": f"127.0.0.1:{self.port}", "port": 80}],
                "status_address": f"127.0.0.1:{self.status_port}",
                "agent_socket": str(self.agent.path),
                "bus": self.bus,
                "view_file": str(self.folder / "view.json"),
                "drain_ms": 60_000,
                "workers": 2,
                "limits": self.limits,
            }
            | self.changes
        )

    async def start(self, *, known: int | None = None) -> Running:
        """Start an edge; wait until it knows that many machines, or all of the agent's."""
        edge = await parts.start("godwit-edge", self.config(), self.folder)
        self.edges.append(edge)
        await self.knows(len(self.agent.machines) if known is None else known)
        return edge

    async def knows(self, machines: int) -> None:
        await self.shows(lambda view: view["machines"] == machines)

    async def shows(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the edge's view once it is as wanted."""
        async with asyncio.timeout(parts.PATIENCE_S):
            while not wanted(view := await self.view()):
                await asyncio.sleep(0.02)
        return view

    async def status(self, path: str) -> httpx.Response:
        """Ask the status page; a predecessor that is just going may break a question off."""
        url = f"http://127.0.0.1:{self.status_port}{path}"
        async with (
            asyncio.timeout(parts.PATIENCE_S),
            httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
        ):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    return await client.get(url)
                await asyncio.sleep(0.02)

    async def view(self) -> dict[str, Any]:
        return dict((await self.status("/view")).json())

    async def metrics(self) -> dict[str, float]:
        got = await self.status("/metrics")
        lines = [line for line in got.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines)}

    async def counts(self, metric: str, least: float) -> None:
        """Return once a counter has come so far."""
        async with asyncio.timeout(parts.PATIENCE_S):
            while (await self.metrics()).get(metric, 0) < least:
                await asyncio.sleep(0.02)

    async def get(self, path: str = "/", **arguments: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client:
            headers = HELLO | arguments.pop("headers", {})
            return await client.get(self.url + path, headers=headers, **arguments)

    def machine(self, machine_id: str, **changes: Any) -> facts.MachineFact:
        """Return a fact of a machine at an address of its own; the agent tells of it."""
        fact = parts.machine(machine_id, next_address(), self.app_port, **changes)
        self.agent.say(fact)
        return self.agent.machines[machine_id]


@pytest.fixture(name="lab")
async def make_lab(tmp_path: Path) -> AsyncIterator[Lab]:
    agent = FakeAgent(tmp_path / "a.sock")
    await agent.start()
    nobody = components.BusClient(
        servers=(f"nats://127.0.0.1:{free_port()}",), seed_file=str(tmp_path / "no.seed")
    )
    made = Lab(tmp_path / "edge", agent, free_port(), free_port(), free_port(), nobody)
    yield made
    for edge in made.edges:
        await edge.kill()
    await agent.stop()


async def curl(*arguments: str) -> bytes:
    """Return what curl prints."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "120", *arguments, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(150):
        printed, _ = await process.communicate()
    return printed


async def echo(request: Request) -> bytes:
    """Answer with what was asked."""
    told = {
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "bytes": len(request.body),
        "digest": hashlib.sha256(request.body).hexdigest(),
        "connection": request.connection,
    }
    return response(json.dumps(told).encode())


class Load:
    """A client that keeps asking and counts what goes wrong."""

    def __init__(self, lab: Lab) -> None:
        self.good = 0
        self.bad: list[str] = []
        self._lab = lab
        self._stopped = False

    async def __aenter__(self) -> Self:
        self._running = [parts.spawn(self._run()) for _ in range(4)]
        await self.more(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.more(50)
        self._stopped = True
        await asyncio.gather(*self._running)
        assert self.bad == []

    async def more(self, requests: int) -> None:
        """Wait for that many more requests."""
        wanted = self.good + requests
        await until(lambda: self.good >= wanted or self.bad)

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            while not self._stopped:
                try:
                    got = await client.get(self._lab.url, headers=HELLO)
                except httpx.HTTPError as error:
                    self.bad.append(repr(error))
                else:
                    if got.status_code == 200:
                        self.good += 1
                    else:
                        self.bad.append(got.text)


async def on_bus(lab: Lab, bus: Bus) -> FactStream:
    """Have the edge follow a real bus; returns control's side of it."""
    lab.bus = components.BusClient(servers=(bus.url,), seed_file=str(bus.keys.seed("edge")))
    control = await bus_connection.connect([bus.url], bus.keys.seed("control"), "control")
    assert await control.wait_up(parts.PATIENCE_S)
    stream = FactStream(control, "lcl")
    await stream.ensure()
    lab.changes["host_id"] = bus.identity.host_id
    return stream
