"""The bus's users follow the members: who joins may speak for itself, who is removed is cut off."""

import asyncio
import contextlib
import gc
import os
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats.errors
import nkeys
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from godwit.base import errors, tasks
from godwit.base.settings import Listen, Paths, Settings
from godwit.bus import connection
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.host import bus_file, identity, running
from godwit.testing.loopback import free_port
from godwit.wire.facts import MemberFact
from tests.host.conftest import Bus, until
from tests.host.regions_lab import machine

# nats-py leaves the sockets of refused attempts to the garbage collector, which complains.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OTHER = "0badcafe"
SOON_S = 30.0
"""It takes a second or two, and nothing but the word that it is removed cuts a host off."""


@dataclass
class Region:
    """A bus host with its catalog process, and the key of another host."""

    bus: Bus
    seed: str
    member: MemberFact
    catalog: asyncio.subprocess.Process

    async def tell(self, **changes: object) -> None:
        """Have control tell of the other host."""
        self.member = self.member.model_copy(
            update={"revision": self.member.revision + 1, **changes}
        )
        async with as_control(self.bus) as control:
            stream = FactStream(control, "fra")
            await stream.ensure()
            await stream.publish(self.member)

    @contextlib.asynccontextmanager
    async def other(self) -> AsyncIterator[Connection]:
        """Connect the other host, which may not be known yet."""
        link = await Connection([self.bus.url], self.seed, OTHER).__aenter__()
        try:
            yield link
        finally:
            await link.close()


@contextlib.asynccontextmanager
async def as_control(bus: Bus) -> AsyncIterator[Connection]:
    link = await connection.connect([bus.url], bus.keys.seed("control"), "control")
    try:
        assert await link.wait_up(60)
        yield link
    finally:
        await link.close()


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    settings = Settings(
        paths=Paths(data=tmp_path / "d", run=tmp_path / "r"),
        listen=Listen(bus=f"127.0.0.1:{free_port()}"),
    )
    (tmp_path / "r" / "pids").mkdir(parents=True)
    who, keys = identity.ensure(tmp_path / "d", "fra", "0000")
    config = tmp_path / "r" / "bus.conf"
    config.write_text(bus_file.text(settings, who, keys))
    told = tmp_path / "settings.json"
    told.write_text(settings.model_dump_json())
    bus = Bus(f"nats://{settings.listen.bus}", config, who, keys)
    await bus.start()
    assert bus.process is not None
    running.write(tmp_path / "r" / "pids" / "bus.json", running.of(bus.process.pid))
    with (tmp_path / "catalog.log").open("wb") as log:
        catalog = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "godwit.cmd.catalog", "--settings", str(told)),
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": ""},
        )
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    member = MemberFact(
        epoch=1,
        revision=1,
        host_id=OTHER,
        host_number=70_000,
        region="fra",
        zone="0000",
        roles=("agent",),
        keys={"host": public},
    )
    yield Region(bus, seed.decode(), member, catalog)
    catalog.terminate()
    async with asyncio.timeout(60):
        assert await catalog.wait() == 0, (tmp_path / "catalog.log").read_text()
    await bus.kill()
    # Within this test, which does not mind.
    gc.collect()


async def test_a_removed_hosts_live_connection_is_cut_in_seconds_and_it_never_comes_back(
    region: Region,
) -> None:
    async with region.other() as other:
        assert not await other.wait_up(1)
        await region.tell(state="active")
        await until(lambda: other.up)
        await FactStream(other, "fra").publish(machine("fra", OTHER, "m1", 1))
        await region.tell(state="removed")
        await until(lambda: not other.up, SOON_S)
        # Its client tries again and again.
        for _ in range(20):
            assert not await other.wait_up(0.1)
            with pytest.raises(errors.Failure):
                await FactStream(other, "fra").publish(machine("fra", OTHER, "m1", 2))
    # Also the server that starts anew knows.
    assert region.seed not in region.bus.config.read_text()
    assert region.member.keys["host"] not in region.bus.config.read_text()


async def test_nobody_else_notices_that_a_host_comes_or_goes(region: Region) -> None:
    breaks: list[None] = []
    async with as_control(region.bus) as control:
        with control.broken(lambda: breaks.append(None)):
            for state in ("active", "removed", "active"):
                await region.tell(state=state)
                there = region.member.keys["host"]
                await until(
                    lambda there=there, state=state: (  # type: ignore[misc]
                        (there in region.bus.config.read_text()) == (state == "active")
                    )
                )
            assert (await control.jetstream.stream_info("FACTS_fra")).state.messages == 1
        assert breaks == []


async def test_a_stolen_key_opens_nothing_of_other_hosts(region: Region) -> None:
    mine = region.bus.identity.host_id
    complaints: list[str] = []

    async def complain(error: Exception) -> None:
        complaints.append(str(error).lower())

    async def hear(message: Msg) -> None:
        raise AssertionError(f"heard {message.subject}")

    await region.tell(state="active")
    async with region.other() as other:
        await until(lambda: other.up)
    thief = Client()
    await thief.connect(region.bus.url, nkeys_seed_str=region.seed, error_cb=complain)
    try:
        forbidden = [
            f"facts.fra.machine.{mine}.m1",
            f"facts.fra.host.{mine}.{mine}",
            f"facts.fra.member.control.{OTHER}",
            "facts.fra.app.control.shop",
            f"godwit.control.rpc.{mine}.secrets",
            f"godwit.host.{mine}.rpc.machine.stop",
            "mirror.iad.machine.x.m1",
        ]
        for subject in forbidden:
            with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
                await thief.request(subject, b"{}", timeout=0.2)
        for subject in (f"godwit.host.{mine}.rpc.>", ">", f"_INBOX_{mine}.>", "_INBOX_control.>"):
            await thief.subscribe(subject, cb=hear)
        await thief.flush()
        await until(lambda: len([one for one in complaints if "violation" in one]) >= 11)
        async with (
            tasks.Tasks("test"),
            as_control(region.bus) as control,
        ):
            with contextlib.suppress(nats.errors.Error):
                await control.client.request(f"godwit.host.{mine}.rpc.x", b"{}", timeout=0.5)
    finally:
        await thief.close()
