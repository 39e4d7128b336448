"""Machines that the load does not need are put to rest: at most one of a group at each look."""

import asyncio
from typing import Any

import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.conftest import until
from tests.host.edge_lab import PATIENT, Lab, make_lab  # noqa: F401
from tests.host.rust_components import Request, response, web_app

pytestmark = pytest.mark.host

LOOK_MS = 300
FAST = PATIENT.model_copy(update={"autostop_ms": LOOK_MS})
STOP: dict[str, Any] = {"autostop": "stop"}


def rests(lab: Lab) -> None:
    """Have the agent do as it is asked."""

    def rest(machine_id: str) -> None:
        fact = lab.agent.machines[machine_id]
        lab.agent.say(fact.model_copy(update={"state": "stopped"}))

    lab.agent.on_stop = rest


def stopped(lab: Lab) -> list[str]:
    """Return the machines that were to be stopped, in order.

    Each once: the edge asks again at every look until it is told that the machine has stopped.
    """
    return list(dict.fromkeys(one.machine_id for one in lab.agent.stops))


async def looks(count: int) -> None:
    """Let the edge look so often; only for what must not happen."""
    await asyncio.sleep(count * LOOK_MS / 1_000)


async def test_idle_machines_rest_one_by_one(lab: Lab) -> None:
    lab.limits = FAST
    rests(lab)
    for number in range(3):
        lab.machine(f"m{number}", **STOP)
    await lab.start()
    await until(lambda: len(stopped(lab)) == 3)
    assert stopped(lab) == ["m2", "m1", "m0"]
    assert not any(one.suspend for one in lab.agent.stops)


async def test_what_is_to_run_and_what_has_no_autostop_is_left(lab: Lab) -> None:
    lab.limits = FAST
    rests(lab)
    for number in range(2):
        lab.machine(f"m{number}", autostop="suspend", min_running=1)
    lab.machine("other", app="other")
    await lab.start()
    await until(lambda: stopped(lab))
    await looks(5)
    assert stopped(lab) == ["m1"]
    assert lab.agent.stops[0].suspend


@pytest.mark.parametrize(
    ("first", "second", "rests_at_last", "suspended"),
    [
        ("stop", "off", "m0", False),
        ("off", "stop", "m1", False),
        ("suspend", "off", "m0", True),
        ("off", "suspend", "m1", True),
    ],
)
async def test_each_machine_of_a_group_says_itself_whether_and_how_it_rests(
    lab: Lab, first: str, second: str, rests_at_last: str, suspended: bool
) -> None:
    lab.limits = FAST
    rests(lab)
    lab.machine("m0", autostop=first)
    lab.machine("m1", autostop=second)
    await lab.start()
    await until(lambda: stopped(lab))
    await looks(4)
    assert stopped(lab) == [rests_at_last]
    assert {one.suspend for one in lab.agent.stops} == {suspended}


async def test_one_stops_and_the_other_suspends(lab: Lab) -> None:
    lab.limits = FAST
    rests(lab)
    lab.machine("m0", autostop="stop")
    lab.machine("m1", autostop="suspend")
    await lab.start()
    await until(lambda: len(stopped(lab)) == 2)
    assert {(one.machine_id, one.suspend) for one in lab.agent.stops} == {
        ("m0", False),
        ("m1", True),
    }


async def test_a_machine_with_something_to_do_is_left(lab: Lab) -> None:
    lab.limits = FAST
    rests(lab)
    fact = lab.machine("m0")
    release = asyncio.Event()

    async def hold(_: Request) -> bytes:
        await release.wait()
        return response()

    async with web_app(fact.local_ipv4, lab.app_port, hold) as app:
        await lab.start()
        asking = parts.spawn(lab.get())
        await until(lambda: app.active)
        lab.agent.say(fact.model_copy(update=STOP))
        await looks(6)
        assert stopped(lab) == []
        release.set()
        assert (await asking).status_code == 200
        await until(lambda: stopped(lab))


async def test_machines_of_two_hosts_are_one_group_that_one_edge_decides_for(
    servers: Servers,
) -> None:
    servers.limits = FAST
    one, other = await servers.add(), await servers.add()
    for server in (one, other):
        rests(server.lab)
    # It decides for all, and has all run until the load is there.
    first = one.machine("m0", min_running=3)
    busy = other.machine("m1", service={"soft_limit": 1}, **STOP)
    other.machine("m2", **STOP)
    release = asyncio.Event()

    async def hold(_: Request) -> bytes:
        await release.wait()
        return response()

    async with web_app(busy.local_ipv4, other.lab.app_port, hold) as app:
        await servers.start()
        held = {"fly-force-instance-id": "m1"}
        asking = parts.spawn(one.get(headers=held))
        await until(lambda: app.active)
        one.lab.agent.say(first.model_copy(update={**STOP, "min_running": 0}))
        await until(lambda: stopped(other.lab))
        # The first one's edge decides: it knows that m1 is at its limit, and one more is enough.
        assert (stopped(one.lab), stopped(other.lab)) == ([], ["m2"])
        release.set()
        assert (await asking).status_code == 200


async def test_the_edge_of_a_machine_that_stays_decides_for_those_of_another_host(
    servers: Servers,
) -> None:
    servers.limits = FAST
    one, other = await servers.add(), await servers.add()
    for server in (one, other):
        rests(server.lab)
    one.machine("m0")
    other.machine("m1", autostop="suspend")
    await servers.start()
    await until(lambda: stopped(other.lab))
    assert (stopped(one.lab), stopped(other.lab)) == ([], ["m1"])
    assert other.lab.agent.stops[0].suspend
