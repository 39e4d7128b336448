"""A region grows from one bus server to three: nothing is lost, and nobody is told by hand."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from godwit.base import errors, tasks
from godwit.base.clock import SystemClock
from godwit.base.settings import Settings
from godwit.bus import connection, votes
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.bus.mirror import Mirror
from godwit.host import bus_file, identity, membership, running
from godwit.wire.facts import MemberFact
from tests.host.conftest import Bus, persist, until
from tests.host.regions_lab import machine

pytestmark = pytest.mark.timeout(600)


@dataclass
class Region:
    """The hosts of a region; the first few of them are members."""

    buses: list[Bus]
    members: list[MemberFact]
    settings: list[Settings]

    def admit(self, count: int) -> None:
        """Have every host know the first so many as members, and its server's file say so."""
        for bus, settings in zip(self.buses, self.settings, strict=True):
            membership.keep(settings.paths.data, self.members[:count])
            text = bus_file.text(settings, bus.identity, bus.keys, self.members[:count])
            bus.config.write_text(text)

    def remove(self, number: int) -> None:
        """Have a member be one no more."""
        was = self.members[number]
        self.members[number] = was.model_copy(
            update={"revision": was.revision + 100, "state": "removed"}
        )

    def votes(self) -> str:
        """Return the password of who takes servers' votes."""
        return bus_file.votes_password(bus_file.cluster_secret(self.buses[0].keys))

    @contextlib.asynccontextmanager
    async def connected(self, number: int, component: str) -> AsyncIterator[Connection]:
        """Connect a component of a host as it does when it starts now."""
        bus = self.buses[number]
        servers = membership.own_bus(self.settings[number], bus.identity)
        name = bus.identity.host_id if component == "host" else component
        link = await connection.connect(servers, bus.keys.seed(component), name)
        try:
            assert await link.wait_up(60)
            yield link
        finally:
            await link.close()


@contextlib.asynccontextmanager
async def region(directory: Path, count: int = 3) -> AsyncIterator[Region]:
    """Make some hosts, none of which runs yet; their servers end with the context."""
    made = Region([], [], [])
    pid = os.getpid()
    for number in range(count):
        data = directory / str(number)
        data.mkdir()
        who, keys = identity.ensure(data, "fra", "0000")
        (data / "keys" / "cluster.secret").write_text("0123456789abcdef\n")
        # On an address that no other process of tests has: the ports are those of a real host.
        at = f"127.{100 + number}.{pid // 256 % 256}.{pid % 256}:4222"
        settings = Settings.model_validate(
            {"paths": {"data": data, "run": data}, "listen": {"bus": at}}
        )
        made.buses.append(Bus(f"nats://{at}", data / "bus.conf", who, keys))
        made.settings.append(settings)
        public = {
            name: key for name, key in keys.public.items() if name != "control" or not number
        }
        known: dict[str, Any] = {
            "epoch": 1,
            "revision": number + 1,
            "host_id": who.host_id,
            "host_number": 65_537 + number,
            "region": "fra",
            "zone": "0000",
            "roles": who.roles,
            "keys": public,
            "services": {"bus": at},
        }
        made.members.append(MemberFact.model_validate(known))
    try:
        yield made
    finally:
        for bus in made.buses:
            await bus.kill()


@contextlib.asynccontextmanager
async def seen(stream: FactStream) -> AsyncIterator[dict[str, int]]:
    """Keep the newest revision of every machine as a view has it."""
    newest: dict[str, int] = {}

    async def watch() -> None:
        async for fact in stream.watch(["machine"]):
            newest[fact.machine_id] = fact.revision  # type: ignore[union-attr]

    async with tasks.Tasks("view") as owned:
        owned.spawn(watch(), name="watch")
        yield newest


async def copies(link: Connection, stream: str) -> int:
    """Return how many servers keep a stream and have all of it."""
    try:
        info = await link.jetstream.stream_info(stream)
    except Exception:  # noqa: BLE001 - whatever it is, it is asked again
        return 0
    others = (info.cluster and info.cluster.replicas) or ()
    return 1 + sum(bool(one.current and not one.offline) for one in others)


async def until_copied(link: Connection, stream: str) -> None:
    """Return once three servers keep a stream."""
    async with asyncio.timeout(120):
        while await copies(link, stream) != 3:
            await asyncio.sleep(0.2)


async def tell(stream: FactStream, host_id: str, revision: int) -> None:
    """Tell of all machines, as an owner does after any doubt."""

    async def all_of_them() -> None:
        await stream.ensure()
        for number in range(20):
            await stream.publish(machine("fra", host_id, f"m{number}", revision))

    await persist(all_of_them)


def all_at(revision: int, newest: dict[str, int]) -> Callable[[], bool]:
    """Return what tells whether a view has every machine at a revision."""
    return lambda: newest == {f"m{number}": revision for number in range(20)}


async def test_a_region_grows_to_three_servers_and_loses_the_first(tmp_path: Path) -> None:
    async with region(tmp_path) as there, contextlib.AsyncExitStack() as stack:
        first, second, third = there.buses
        there.admit(1)
        await first.start()
        control = await stack.enter_async_context(there.connected(0, "control"))
        await persist(FactStream(control, "fra").ensure)
        # The second host's server waits for the third: its host uses the first one's.
        there.admit(2)
        await first.kill()
        await first.start()
        await second.start()
        host = await stack.enter_async_context(there.connected(1, "host"))
        catalog = await stack.enter_async_context(there.connected(1, "catalog"))
        assert host.client.connected_url is not None
        assert host.client.connected_url.netloc == first.url.removeprefix("nats://")
        owner, told = second.identity.host_id, FactStream(host, "fra")
        newest = await stack.enter_async_context(seen(FactStream(control, "fra")))
        await tell(told, owner, 1)
        await until(all_at(1, newest))
        # The third is a member, and not up yet: two are enough.
        there.admit(3)
        for bus in (first, second):
            await bus.kill()
            await bus.start()
        await tell(told, owner, 2)
        await until(all_at(2, newest))
        owned = await stack.enter_async_context(tasks.Tasks("mirror"))
        kept = Mirror(catalog, "fra", dict, SystemClock(), replicas=3)
        owned.spawn(kept.run(), name="mirror")
        await third.start()
        whole = FactStream(control, "fra", replicas=3)
        await persist(lambda: whole.ensure(migrate=True))
        await until_copied(control, "FACTS_fra")
        await until_copied(catalog, "MIRROR")
        # All of them dialled the first one alone.
        await first.kill()
        await tell(told, owner, 3)
        await until(all_at(3, newest), 120)


async def test_a_removed_server_has_no_vote_and_another_takes_its_place(tmp_path: Path) -> None:
    async with region(tmp_path, 4) as there, contextlib.AsyncExitStack() as stack:
        first, second, third, fourth = there.buses
        there.admit(3)
        for bus in (first, second, third):
            await bus.start()
        control = await stack.enter_async_context(there.connected(0, "control"))
        host = await stack.enter_async_context(there.connected(1, "host"))
        whole, told = FactStream(control, "fra", replicas=3), FactStream(host, "fra")
        await persist(lambda: whole.ensure(migrate=True))
        await until_copied(control, "FACTS_fra")
        newest = await stack.enter_async_context(seen(FactStream(host, "fra")))
        await tell(told, second.identity.host_id, 1)
        await until(all_at(1, newest))
        gone = third.identity.host_id
        await third.kill()
        there.remove(2)
        there.admit(3)
        struck: list[str] = []

        async def strike() -> None:
            struck.extend(await votes.strike_off(second.url, there.votes(), [gone]))

        await persist(strike)
        assert struck == [gone]
        await persist(strike)
        assert struck == [gone]
        # As control does with a region that has two.
        await persist(lambda: FactStream(control, "fra").ensure(migrate=True))
        there.admit(4)
        for bus in (first, second):
            assert bus.process is not None
            bus.process.send_signal(signal.SIGHUP)
        await fourth.start()
        await persist(lambda: whole.ensure(migrate=True))
        await until_copied(control, "FACTS_fra")
        # Two of three decide, as they would not if the removed one still counted.
        await first.kill()
        await tell(told, second.identity.host_id, 2)
        await until(all_at(2, newest), 120)
        async with contextlib.aclosing(FactStream(host, "fra").watch(["machine"])) as read:
            assert await anext(read)


@contextlib.asynccontextmanager
async def keeper(settings: Settings, bus: Bus) -> AsyncIterator[Path]:
    """Run what keeps a bus host's server and its region; return its log."""
    run = settings.paths.run
    (run / "pids").mkdir()
    assert bus.process is not None
    running.write(run / "pids" / "bus.json", running.of(bus.process.pid))
    told, log = run / "settings.json", run / "catalog.log"
    told.write_text(settings.model_dump_json())
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "godwit.cmd.catalog", "--settings", str(told)),
            stdout=written,
            stderr=written,
            env={**os.environ, "NOTIFY_SOCKET": ""},
        )
    try:
        yield log
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


async def test_who_keeps_the_region_takes_the_vote_when_a_host_is_removed(tmp_path: Path) -> None:
    async with region(tmp_path) as there, contextlib.AsyncExitStack() as stack:
        there.admit(3)
        for bus in there.buses:
            await bus.start()
        control = await stack.enter_async_context(there.connected(0, "control"))
        facts = FactStream(control, "fra", replicas=3)
        await persist(facts.ensure)
        logs = [
            await stack.enter_async_context(keeper(there.settings[at], there.buses[at]))
            for at in (0, 1)
        ]
        there.remove(2)
        await persist(lambda: facts.publish(there.members[2]))
        await there.buses[2].kill()
        words = f"removed host {there.buses[2].identity.host_id} has no vote any more"
        await until(lambda: any(words in log.read_text() for log in logs), 120)
        at, gone = there.buses[0].url, there.buses[2].identity.host_id
        assert await votes.strike_off(at, there.votes(), [gone]) == []


async def test_only_who_knows_the_servers_secret_takes_votes(tmp_path: Path) -> None:
    async with region(tmp_path) as there:
        there.admit(3)
        for bus in there.buses:
            await bus.start()
        async with there.connected(0, "control") as control:
            await persist(FactStream(control, "fra").ensure)
            with pytest.raises(errors.Failure):
                await votes.strike_off(there.buses[0].url, "guessed", ["whoever"])
            asked = b'{"peer": "%s"}' % there.buses[2].identity.host_id.encode()
            with pytest.raises(errors.Failure):
                await control.request(votes.SUBJECT, asked, 2)
            async with there.connected(1, "host") as host:
                with pytest.raises(errors.Failure):
                    await host.request(votes.SUBJECT, asked, 2)
            assert await votes.strike_off(there.buses[0].url, there.votes(), ["whoever"]) == []
