"""The bus, real: RPC, bids, facts, permissions, and its death and return."""

import asyncio
import contextlib

import nats.errors
import pytest
from nats.aio.client import Client

from godwit.base import errors, principal, tasks
from godwit.bus import connection, facts, rpc
from godwit.wire import host_rpc
from godwit.wire.facts import AppFact, HostFact
from tests.host.conftest import Bus, until

WHO = principal.component("test")
BID_REQUEST = host_rpc.BidRequest(
    org_id="o", app_id="a", resources=host_rpc.Resources(), image_digest="sha256:0"
)


@contextlib.asynccontextmanager
async def connected(bus: Bus, component: str):
    name = bus.identity.host_id if component == "host" else component
    link = await connection.connect([bus.url], bus.keys.seed(component), name)
    try:
        assert await link.wait_up(10)
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
    assert [b.host_id for b in await client.bids("lcl", BID_REQUEST)] == ["h"]
    assert await client.bids("xxx", BID_REQUEST) == []


async def test_rpc_works_again_after_the_bus_was_killed(bus: Bus, served) -> None:
    await bus.kill()
    await until(lambda: not served.up)
    with pytest.raises(errors.Failure) as raised:
        await rpc.Client(served).call(bus.identity.host_id, "echo", {}, WHO)
    assert raised.value.code == "unavailable"
    await bus.start()
    async with asyncio.timeout(20):
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
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(errors.Failure):
                    await stream.publish(fact(3).model_copy(update=mine))
                    break
                await asyncio.sleep(0.05)
        await until(lambda: seen[-1] == 3, 20)


async def test_a_host_cannot_speak_for_control(bus: Bus) -> None:
    app = AppFact(
        epoch=1, revision=1, org_id="o", network_id="n", network_number=1, app_id="a", app="x"
    )
    async with connected(bus, "host") as host:
        stream = facts.FactStream(host, "lcl")
        await stream.ensure()
        with pytest.raises(errors.Failure):
            await stream.publish(app)


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
