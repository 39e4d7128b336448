"""The bus, real: RPC, bids, facts, permissions, and its death and return."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from godwit.base import errors, principal, tasks
from godwit.bus import connection, control_rpc, facts, rpc
from godwit.wire import host_rpc
from godwit.wire.facts import MOST_BYTES, AppFact, HostFact, MachineFact
from tests.host.conftest import Bus, persist, until

WHO = principal.component("test")
BID_REQUEST = host_rpc.BidRequest(
    org_id="o", app_id="a", resources=host_rpc.Resources(), image_digest="sha256:0"
)


@contextlib.asynccontextmanager
async def connected(bus: Bus, component: str):
    name = bus.identity.host_id if component == "host" else component
    link = await connection.connect([bus.url], bus.keys.seed(component), name)
    try:
        assert await link.wait_up(60)
        yield link
    finally:
        await link.close()


async def echo(who: principal.Principal, body: dict) -> dict:
    return {"subject": who.subject, **body}


async def refuse(who: principal.Principal, body: dict) -> dict:
    raise errors.Failure("failed_precondition", "it is busy", hint="wait")


async def fail(who: principal.Principal, body: dict) -> dict:
    raise KeyError("bug")


@pytest.fixture
async def served(bus: Bus):
    async with (
        tasks.Tasks("test") as owned,
        connected(bus, "host") as host,
        connected(bus, "control") as control,
    ):
        handlers = {"echo": echo, "refuse": refuse, "fail": fail}
        await rpc.serve(host, owned, bus.identity.host_id, handlers)

        async def bid(request: host_rpc.BidRequest) -> host_rpc.Bid:
            return host_rpc.Bid(host_id="h", region="lcl", zone="0", fits=True, score=2)

        await rpc.serve_bids(host, owned, "lcl", bid)
        await host.client.flush()
        yield control


async def test_host_answers_and_learns_who_asks(bus: Bus, served) -> None:
    answer = await rpc.Client(served).call(bus.identity.host_id, "echo", {"x": 1}, WHO)
    assert answer == {"subject": "component:test", "x": 1}


@pytest.mark.parametrize(
    ("verb", "code"),
    [("refuse", "failed_precondition"), ("fail", "internal"), ("other", "not_found")],
)
async def test_problems_cross_the_bus_as_failures(bus: Bus, served, verb: str, code: str) -> None:
    with pytest.raises(errors.Failure) as raised:
        await rpc.Client(served).call(bus.identity.host_id, verb, {}, WHO)
    assert raised.value.code == code


async def test_absent_host_is_unavailable_at_once(served) -> None:
    with pytest.raises(errors.Failure) as raised:
        await rpc.Client(served).call("deadbeef", "echo", {}, WHO)
    assert raised.value.code == "unavailable"


async def test_bids_are_gathered_and_an_empty_region_answers_at_once(served) -> None:
    client = rpc.Client(served)
    assert [b.host_id for b in await client.bids("lcl", BID_REQUEST, 60.0)] == ["h"]
    assert await client.bids("xxx", BID_REQUEST, 60.0) == []


async def test_nobody_is_waited_for_once_every_known_host_has_bid(bus: Bus, served) -> None:
    async def bid(request: host_rpc.BidRequest) -> host_rpc.Bid:
        return host_rpc.Bid(host_id="second", region="lcl", zone="0", fits=True)

    async with tasks.Tasks("second") as owned, connected(bus, "host") as another:
        await rpc.serve_bids(another, owned, "lcl", bid)
        await another.client.flush()
        client = rpc.Client(served)
        assert len(await client.bids("lcl", BID_REQUEST, 60.0, hosts=1)) == 1


async def test_rpc_works_again_after_the_bus_was_killed(bus: Bus, served) -> None:
    await bus.kill()
    await until(lambda: not served.up)
    with pytest.raises(errors.Failure) as raised:
        await rpc.Client(served).call(bus.identity.host_id, "echo", {}, WHO)
    assert raised.value.code == "unavailable"
    await bus.start()
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(errors.Failure):
                await rpc.Client(served).call(bus.identity.host_id, "echo", {}, WHO)
                break
            await asyncio.sleep(0.05)


def fact(revision: int) -> HostFact:
    return HostFact(
        owner="", epoch=1, revision=revision, host_id="", region="lcl", zone="0"
    ).model_copy(update={"owner": "H", "host_id": "H"})


async def test_watch_yields_newest_then_changes_also_across_a_restart(bus: Bus) -> None:
    async with (
        tasks.Tasks("test") as owned,
        connected(bus, "host") as host,
        connected(bus, "control") as control,
    ):
        stream = facts.FactStream(host, "lcl")
        await stream.ensure()
        await stream.ensure()
        mine = {"owner": bus.identity.host_id, "host_id": bus.identity.host_id}
        await stream.publish(fact(1).model_copy(update=mine))
        await stream.publish(fact(2).model_copy(update=mine))
        seen: list[int] = []

        async def watch() -> None:
            async for found in facts.FactStream(control, "lcl").watch(["host", "machine"]):
                seen.append(found.revision)

        owned.spawn(watch(), name="watch")
        await until(lambda: seen == [2])
        await bus.kill()
        await until(lambda: not host.up)
        await bus.start()
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(errors.Failure):
                    await stream.publish(fact(3).model_copy(update=mine))
                    break
                await asyncio.sleep(0.05)
        await until(lambda: seen[-1] == 3)


@pytest.fixture
async def links(bus: Bus):
    """A host and control on the bus."""
    async with connected(bus, "host") as host, connected(bus, "control") as control:
        yield host, control


def owned(bus: Bus, revision: int, *, deleted: bool = False) -> MachineFact:
    host_id = bus.identity.host_id
    return MachineFact(
        owner=host_id,
        epoch=1,
        revision=revision,
        deleted=deleted,
        org_id="o",
        network_id="n",
        network_number=1,
        app_id="a",
        app="hello",
        machine_id="m1",
        instance_id="i",
        name="quiet",
        host_id=host_id,
        region="lcl",
        state="destroyed" if deleted else "started",
        private_ip="fdaa:0:1::2",
        local_ipv4="172.16.0.5",
    )


async def count(link: connection.Connection) -> int:
    return (await link.jetstream.stream_info("FACTS_lcl")).state.messages


async def make_as_release_0_1(link: connection.Connection) -> None:
    await link.jetstream.add_stream(
        StreamConfig(
            name="FACTS_lcl",
            subjects=["facts.lcl.>"],
            storage=StorageType.FILE,
            max_msgs_per_subject=1,
            max_msg_size=65_536,
            discard=DiscardPolicy.OLD,
            allow_direct=True,
        )
    )


async def gone(link: connection.Connection) -> None:
    async with asyncio.timeout(60):
        while await count(link):
            await asyncio.sleep(0.1)


async def test_a_record_of_the_greatest_length_is_taken_and_a_longer_one_never(
    bus: Bus, links
) -> None:
    stream = facts.FactStream(links[0], "lcl")
    await stream.ensure()
    around = len(owned(bus, 1).model_dump_json())
    greatest = owned(bus, 1).model_copy(update={"name": "quiet" + "x" * (MOST_BYTES - around)})
    await stream.publish(greatest)
    assert await count(links[0]) == 1
    longer = greatest.model_copy(update={"name": greatest.name + "x", "revision": 2})
    with pytest.raises(errors.Failure) as caught:
        await stream.publish(longer)
    assert caught.value.code == "invalid_argument"


async def test_a_tombstone_leaves_the_stream_and_its_subject_with_it(bus: Bus, links) -> None:
    host, control = links
    stream = facts.FactStream(host, "lcl", tombstone_s=6)
    await stream.ensure()
    await stream.publish(owned(bus, 1))
    await stream.publish(owned(bus, 2, deleted=True))
    assert await count(control) == 1
    await gone(control)


async def test_a_record_after_its_tombstone_stays(bus: Bus, links) -> None:
    host, control = links
    stream = facts.FactStream(host, "lcl", tombstone_s=1)
    await stream.ensure()
    await stream.publish(owned(bus, 1, deleted=True))
    await stream.publish(owned(bus, 2))
    machine = f"facts.lcl.machine.{bus.identity.host_id}.x"
    # What was published after the tombstone, and lives as long as it, has gone: so would it have.
    await host.jetstream.publish(machine, b"{}", msg_ttl=1)
    async with asyncio.timeout(60):
        while await count(control) > 1:
            await asyncio.sleep(0.1)
    subject = f"facts.lcl.machine.{bus.identity.host_id}.m1"
    info = await control.jetstream.stream_info("FACTS_lcl", subjects_filter=">")
    assert info.state.subjects == {subject: 1}


async def test_a_stream_of_release_0_1_is_migrated_with_what_is_in_it(bus: Bus, links) -> None:
    host, control = links
    await make_as_release_0_1(control)
    stream = facts.FactStream(host, "lcl", tombstone_s=1)
    await stream.ensure()
    await stream.publish(owned(bus, 1, deleted=True))
    assert await count(control) == 1
    await facts.FactStream(control, "lcl").ensure(migrate=True)
    assert await count(control) == 1
    await stream.publish(owned(bus, 2, deleted=True))
    await gone(control)


async def test_control_buries_what_an_earlier_release_left_for_ever(bus: Bus, links) -> None:
    host, control = links
    await make_as_release_0_1(control)
    stream, mine = facts.FactStream(host, "lcl"), facts.FactStream(control, "lcl")
    await stream.publish(owned(bus, 1, deleted=True))
    assert await mine.bury(datetime.now(UTC) - timedelta(days=7)) == 0
    assert await mine.bury(datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert await count(control) == 0
    await stream.publish(owned(bus, 2))
    assert await mine.bury(datetime.now(UTC) + timedelta(seconds=1)) == 0
    assert await count(control) == 1


async def test_a_host_cannot_change_or_purge_the_stream(bus: Bus, links) -> None:
    host, control = links
    await facts.FactStream(host, "lcl").ensure()
    await facts.FactStream(host, "lcl").publish(owned(bus, 1))
    for doing in ("UPDATE", "PURGE", "DELETE"):
        with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
            await host.client.request(f"$JS.API.STREAM.{doing}.FACTS_lcl", b"{}", timeout=0.3)
    assert await count(control) == 1


async def test_a_host_cannot_speak_for_control(bus: Bus) -> None:
    app = AppFact(
        epoch=1, revision=1, org_id="o", network_id="n", network_number=1, app_id="a", app="x"
    )
    async with connected(bus, "host") as host:
        stream = facts.FactStream(host, "lcl")
        await stream.ensure()
        with pytest.raises(errors.Failure):
            await stream.publish(app)


async def test_a_host_asks_control_under_its_own_name_only(bus: Bus) -> None:
    async def pull_token(host_id: str, body: dict) -> dict:
        return {"token": f"{host_id}:{body['machine_id']}:{body['reference']}"}

    async with (
        tasks.Tasks("test") as owned,
        connected(bus, "control") as control,
        connected(bus, "host") as host,
    ):
        await control_rpc.serve(control, owned, {"pull_token": pull_token})
        asked = control_rpc.Client(host, bus.identity.host_id)
        # What one connection subscribes to, another one reaches a moment later.
        await persist(lambda: asked.pull_token("m", "r"))
        assert await asked.pull_token("m", "r") == f"{bus.identity.host_id}:m:r"
        stranger = control_rpc.Client(host, "ffffffff")
        with pytest.raises(errors.Failure):
            await stranger._call("pull_token", {"machine_id": "m", "reference": "r"}, 0.3)
        with pytest.raises(errors.Failure) as unknown:
            await asked._call("other", {})
        assert unknown.value.code == "not_found"


async def test_waits_by_the_hundred_hold_nobody_up(bus: Bus) -> None:
    go_on = asyncio.Event()
    waiting = 0

    async def wait(who: principal.Principal, body: dict) -> dict:
        nonlocal waiting
        waiting += 1
        await go_on.wait()
        return {}

    async with (
        tasks.Tasks("test") as owned,
        connected(bus, "host") as host,
        connected(bus, "control") as control,
    ):
        await rpc.serve(host, owned, bus.identity.host_id, {"machine.wait": wait, "echo": echo})
        client = rpc.Client(control)
        asked = [
            owned.spawn(client.call(bus.identity.host_id, "machine.wait", {}, WHO, 120), name="w")
            for _ in range(600)
        ]
        await until(lambda: waiting == len(asked))
        assert (await client.call(bus.identity.host_id, "echo", {"x": 1}, WHO))["x"] == 1
        go_on.set()
        assert [await one for one in asked] == [{}] * len(asked)


async def test_an_edge_cannot_write(bus: Bus) -> None:
    seed = bus.keys.seed("edge").read_text().strip()
    complaints: list[Exception] = []

    async def complain(error: Exception) -> None:
        complaints.append(error)

    client = await nats.connect(bus.url, nkeys_seed_str=seed, error_cb=complain)
    try:
        await client.publish("godwit.host.x.rpc.machine.stop", b"{}")
        await client.publish("facts.lcl.app.control.x", b"{}")
        await client.flush()
        await until(lambda: len(complaints) == 2)
        assert all("permissions violation" in str(c).lower() for c in complaints)
    finally:
        await client.close()


async def test_without_a_key_nobody_comes_in(bus: Bus) -> None:
    async def quiet(error: Exception) -> None:
        """Errors are what this test waits for."""

    client = Client()
    with pytest.raises(nats.errors.Error):
        await client.connect(bus.url, allow_reconnect=False, error_cb=quiet)
    # nats-py leaves the refused socket to its owner.
    client._transport.close()
