"""An edge with addresses of its own, an authority and apps at any port, for tests of its front."""

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from godwit.control import edge_authority
from godwit.host import edge_keys
from godwit.testing.loopback import free_port
from godwit.wire import components
from tests.host import rust_components as parts
from tests.host.edge_lab import Lab
from tests.host.rust_components import FakeAgent

_NET = f"127.20.{os.getpid() % 250}"
SHARED, OWN = f"{_NET}.1", f"{_NET}.2"
"""An address that apps share, and one that is the app `hello`'s alone."""
NAME = "hello.godwit.localhost"
CUSTOM = "www.example.com"


@dataclass
class FrontLab(Lab):
    """An edge that listens where services say."""

    root: Path = Path()

    @property
    def trusting(self) -> ssl.SSLContext:
        """Return what a client has that trusts the cluster's root, and nobody else."""
        return ssl.create_default_context(cafile=str(self.root))

    def service(self, port: int, *handlers: str, **more: Any) -> dict[str, Any]:
        """Return a service with one external port."""
        options = {key: more.pop(key) for key in list(more) if key in _OF_PORT}
        at = {"start_port": port, "end_port": port, "handlers": handlers, **options}
        return {"internal_port": self.app_port, "ports": [at], "concurrency": "requests", **more}

    async def listens(self, address: str, port: int, *, wanted: bool = True) -> None:
        """Return once the edge listens there, or does not."""
        async with asyncio.timeout(parts.PATIENCE_S):
            while ((address, port) in await self.open_ports()) != wanted:
                await asyncio.sleep(0.02)

    async def open_ports(self) -> set[tuple[str, int]]:
        told = [one["address"] for one in (await self.ports())["open"]]
        return {(host, int(port)) for host, _, port in (one.rpartition(":") for one in told)}

    async def ports(self) -> dict[str, Any]:
        return dict((await self.status("/ports")).json())

    async def refused(self, reason: str, least: int = 1) -> None:
        """Return once so many connections were refused for a reason."""
        await self.counts(f'godwit_edge_refused_connections_count{{reason="{reason}"}}', least)


_OF_PORT = {"force_https", "tls_options", "http_options", "proxy_version"}


@contextlib.asynccontextmanager
async def front_lab(tmp_path: Path) -> AsyncIterator[FrontLab]:
    """Give an edge that is not started yet, and end those that were."""
    agent = FakeAgent(tmp_path / "a.sock")
    await agent.start()
    nobody = components.BusClient(
        servers=(f"nats://127.0.0.1:{free_port()}",), seed_file=str(tmp_path / "no.seed")
    )
    data = tmp_path / "data"
    (data / "keys").mkdir(parents=True)
    edge_keys.ensure_here(data, parts.HOST, time.time_ns() // 1_000_000)
    made = FrontLab(
        tmp_path / "edge", agent, free_port(), free_port(), free_port(), nobody,
        root=data / "keys" / edge_authority.ROOT_CERTIFICATE,
    )  # fmt: skip
    tls = edge_keys.tls(data)
    made.changes = {
        "listeners": [],
        "addresses": [SHARED, OWN],
        "tls": tls,
        "handover_socket": str(tmp_path / "handover"),
    }
    parts.keep_view(
        tmp_path / "edge" / "view.json",
        parts.app("hello", hostnames=(NAME, CUSTOM), addresses=(OWN,)),
        parts.app("other"),
    )
    yield made
    for edge in made.edges:
        await edge.kill()
    await agent.stop()


@pytest.fixture(name="front")
async def make_front(tmp_path: Path) -> AsyncIterator[FrontLab]:
    async with front_lab(tmp_path) as made:
        yield made


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with it, and say so at the end of what was said."""
    while line := await reader.readline():
        writer.write(b"> " + line)
    writer.write(b"over\n")
    writer.close()


@contextlib.asynccontextmanager
async def connected(
    address: str, port: int, **tls: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a connection that is closed at the end."""
    async with asyncio.timeout(parts.PATIENCE_S):
        reader, writer = await asyncio.open_connection(address, port, **tls)
    try:
        async with asyncio.timeout(parts.PATIENCE_S):
            yield reader, writer
    finally:
        writer.close()


def certificate_of(writer: asyncio.StreamWriter) -> dict[str, Any]:
    """Return what the peer's certificate says."""
    seen = cast("ssl.SSLObject", writer.get_extra_info("ssl_object")).getpeercert()
    assert seen is not None
    return dict(seen)
