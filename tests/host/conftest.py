"""Real parts for tests of one host: a bus with this host's own permissions."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.host import bus_config, identity
from godwit.testing.loopback import free_port

NATS_SERVER = str(Path(sys.executable).parent / "nats-server")


async def until(condition, deadline_s: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    """Return once the condition holds; fail after the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.02)


async def persist(doing) -> None:  # type: ignore[no-untyped-def]
    """Do something until it works, as owners and control do."""
    async with asyncio.timeout(120):
        while True:
            try:
                await doing()
            except errors.Failure:
                await asyncio.sleep(0.2)
            else:
                return


@dataclass
class Bus:
    """A nats-server that can be killed and started again on the same port."""

    url: str
    config: Path
    identity: identity.HostIdentity
    keys: identity.Keys
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        log = self.config.with_suffix(".log")
        self.process = await asyncio.create_subprocess_exec(
            NATS_SERVER, "-c", str(self.config), "--log", str(log)
        )
        host, _, port = self.url.removeprefix("nats://").rpartition(":")
        async with asyncio.timeout(60):
            while True:
                assert self.process.returncode is None, log.read_text()
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    """Return a running bus."""
    assert shutil.which(NATS_SERVER), "install the lock file first: make setup"
    who, keys = identity.ensure(tmp_path, "lcl", "0000")
    listen = f"127.0.0.1:{free_port()}"
    config = tmp_path / "bus.conf"
    config.write_text(
        bus_config.render(
            bus_config.Server(who.host_id, who.region, listen, tmp_path / "bus"),
            [bus_config.this_member(who, keys)],
        )
    )
    server = Bus(f"nats://{listen}", config, who, keys)
    await server.start()
    yield server
    await server.kill()
