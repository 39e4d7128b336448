"""Every step of every operation, failed once, twice, for ever: made good, or cleanly given up."""

import asyncio
from collections import deque
from typing import Any

import pytest

from godwit.agent.machines import config, records
from godwit.base import errors
from godwit.testing import agents, clock
from tests.unit.agent.machines.cases import CASES, Case, Endless, M, started
from tests.unit.agent.machines.test_operations import ending, settle, undisturbed

SAVED_VERBS = ["vmm.suspend", "vmm.resume"]
UP_VERBS = ["network.plumb", "vmm.prepare", "vmm.spawn", "images.ensure"]
DOWN_VERBS = ["vmm.discard", "network.unplumb", "vmm.exit_record", "vmm.connect"]


async def with_faults(case: Case, verb: str, faults: deque[BaseException]) -> dict[str, Any]:
    host = agents.FakeHost()
    agent = await host.agent()
    await case.prepare(host, agent)
    await asyncio.sleep(0.1)
    host.world.faults[verb] = faults
    await case.act(host, agent)
    await settle(agent)
    found = ending(host)
    found["sentence"] = agent.driver(M).snapshot.sentence
    assert host.world.lies == []
    await host.close()
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("times", [1, 2])
def test_a_step_that_fails_a_little_is_made_good(name: str, times: int) -> None:
    case = CASES[name]
    reference, _, _ = clock.run(undisturbed(case))
    for verb in sorted({*case.asks} - {"vmm.has_snapshot", case.broken}):
        faults: deque[BaseException] = deque(OSError("busy") for _ in range(times))
        found = clock.run(with_faults(case, verb, faults))
        found.pop("sentence")
        assert found == reference, verb


@pytest.mark.parametrize("verb", UP_VERBS)
@pytest.mark.parametrize("name", ["launch", "start", "restart"])
def test_a_step_that_fails_for_ever_fails_the_machine_and_leaves_nothing(
    name: str, verb: str
) -> None:
    found = clock.run(with_faults(CASES[name], verb, Endless([OSError("no space")])))
    assert found["states"] == ["failed"]
    assert "no space" in found["sentence"]
    assert found["remains"] == {"vms": [], "taps": [], "prepared": [], "saved": []}
    assert found["unfinished"] == []
    assert True not in found["usage"]


@pytest.mark.parametrize("name", CASES)
def test_whatever_fails_for_long_the_machine_rests_truthfully_afterwards(name: str) -> None:
    case = CASES[name]

    async def whole(verb: str, kind: type[Exception]) -> None:
        host = agents.FakeHost()
        agent = await host.agent()
        await case.prepare(host, agent)
        await asyncio.sleep(0.1)
        host.world.faults[verb] = Endless([kind("out of order")])
        await case.act(host, agent)
        await asyncio.sleep(1200 if kind is OSError else 60)
        host.world.faults[verb] = deque()
        await settle(agent)
        if kind is not KeyError:
            await at_rest(host, agent)
        # A bug on the way down is never tried again by this agent; the next one clears.
        await agent.kill()
        agent = await host.agent()
        await settle(agent)
        await at_rest(host, agent)
        await host.close()

    for verb in sorted(set(case.asks)):
        for kind in (OSError, KeyError):
            clock.run(whole(verb, kind))


def lasts(machine: records.Machine) -> bool:
    return config.persist(machine.config) != "never"


async def at_rest(host: agents.FakeHost, agent: agents.Agent) -> None:
    """Check that the machine's state is the truth about what exists."""
    machine, world = agent.driver(M).machine, host.world
    there = {
        "vms": [M] if machine.state == "started" else [],
        "taps": [machine.slot] if machine.state == "started" else [],
        "prepared": [M] if machine.state in ("started", "suspended") else [],
    }
    found = world.remains()
    saved = found.pop("saved")
    if there["prepared"] == [] and machine.state != "destroyed" and lasts(machine):
        # Its root, if it ever had one.
        assert found["prepared"] in ([], [M])
        there["prepared"] = found["prepared"]
    assert found == there
    assert saved == [] or machine.state == "suspended"
    assert world.lies == []
    assert host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL") == []
    opened = host.rows("SELECT * FROM usage WHERE ended_at_ms IS NULL")
    assert len(opened) == (machine.state == "started")
    assert machine.state != "failed" or machine.sentence


SUSPENDED = {"vms": [], "taps": [], "prepared": [M], "saved": [M]}


@pytest.mark.parametrize(
    ("name", "verb", "state"),
    [
        ("suspend", "vmm.suspend", "started"),
        ("resume", "images.ensure", "suspended"),
        ("resume", "network.plumb", "suspended"),
        ("resume", "vmm.resume", "suspended"),
    ],
)
def test_a_suspend_or_resume_that_fails_for_ever_ends_in_a_clean_state(
    name: str, verb: str, state: str
) -> None:
    found = clock.run(with_faults(CASES[name], verb, Endless([OSError("no space")])))
    assert found["states"] == [state]
    assert "no space" in found["sentence"]
    assert found["unfinished"] == []
    if state == "started":
        assert found["remains"] == {"vms": [M], "taps": [2], "prepared": [M], "saved": []}
        assert found["usage"] == [True]
    else:
        assert found["remains"] == SUSPENDED


@pytest.mark.parametrize("verb", UP_VERBS)
def test_a_step_that_aborts_fails_the_machine_at_once_and_leaves_nothing(verb: str) -> None:
    refusal = errors.Failure("invalid_argument", "this cannot be")
    found = clock.run(with_faults(CASES["launch"], verb, deque([refusal])))
    assert found["states"] == ["failed"]
    assert found["sentence"] == "this cannot be"
    assert found["remains"] == {"vms": [], "taps": [], "prepared": [], "saved": []}


@pytest.mark.parametrize("verb", ["vmm.discard", "network.unplumb"])
def test_the_way_down_never_gives_up_and_says_where_it_is_stuck(verb: str) -> None:
    async def whole() -> None:
        host = agents.FakeHost()
        agent = await host.agent()
        await started(host, agent)
        host.world.faults[verb] = Endless([OSError("busy")])
        await agent.ask(M, "stop")
        await host.clock.sleep(3600)
        shown = agent.driver(M).snapshot
        assert shown.shown == "stopping"
        assert shown.sentence.startswith("stuck at ")
        assert shown.sentence.endswith(": busy")
        host.world.faults[verb] = deque()
        assert await agent.rest(M) == "stopped"
        assert host.world.remains() == {"vms": [], "taps": [], "prepared": [], "saved": []}
        await host.close()

    clock.run(whole())
