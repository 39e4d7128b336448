"""Every operation: in what order it asks the host, killed at every write, failed at every step.

The oracle reads stored rows itself; the world remembers how often it was asked, apart from what
exists.
"""

import asyncio
import contextlib
import itertools
import json
from typing import Any

import pytest

from godwit.agent.machines import lifecycle, operations, steps
from godwit.testing import agents, clock
from godwit.testing.world import Killed, World
from tests.unit.agent.machines.cases import (
    CASES,
    Act,
    Case,
    M,
    breaks,
    exits,
    started,
    stopped,
    suspended,
)

VERBS: dict[str, set[str]] = {
    "log_launch": set(),
    "adopt_version": set(),
    "wait_before_restart": set(),
    "check_secrets": set(),
    "fetch_image": {"images.ensure"},
    "fetch_new_image": {"images.ensure"},
    "clear_remains": {"vmm.discard"},
    "await_turn": {"vmm.await_turn"},
    "plumb_network": {"network.plumb"},
    "prepare_vm": {"vmm.prepare"},
    "spawn_vmm": {"vmm.spawn"},
    "boot": {"vmm.connect", "vmm.exit_record"},
    "signal_guest": {"vmm.connect", "session.status", "session.stop"},
    "await_exit": {"vmm.connect", "session.kill"},
    "record_exit": {"vmm.exit_record"},
    "discard_vmm": {"vmm.discard"},
    "release_network": {"network.unplumb"},
    "save_state": {"vmm.suspend", "vmm.has_snapshot"},
    "discard_keeping_disk": {"vmm.discard"},
    "resume_vm": {"vmm.resume"},
    "await_resumed": {"vmm.connect", "vmm.exit_record"},
}


def rows_of(host: agents.FakeHost, kind: str) -> list[dict[str, Any]]:
    return host.rows(f"SELECT * FROM operations WHERE kind = '{kind}' AND subject = '{M}'")


def ending(host: agents.FakeHost) -> dict[str, Any]:
    """Return all that must be equal after an operation, however it was disturbed."""
    stored = host.rows("SELECT * FROM machines")
    events = [json.loads(row["record"]) for row in host.rows("SELECT * FROM events ORDER BY id")]
    return {
        "states": [row["state"] for row in stored],
        "versions": [json.loads(row["record"])["instance_id"] for row in stored],
        "remains": host.world.remains(),
        "versions running": [vm.plan.instance_id for vm in host.world.vms.values()],
        "processes": [1 + len(vm.plan.run_spec.beside) for vm in host.world.vms.values()],
        "disks": [vm.plan.hardware.disks for vm in host.world.vms.values()],
        "lasting roots": lasting_roots(host.world),
        "events": [(event["type"], event["status"]) for event in events],
        "usage": [row["ended_at_ms"] is None for row in host.rows("SELECT * FROM usage")],
        "unfinished": host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL"),
        "due": [json.loads(row["record"])["due_ms"] is not None for row in stored],
    }


def lasting_roots(world: World) -> dict[str, int]:
    """Return for each machine whose root lasts, how many it had before the one it has."""
    lasting = (one for one, plan in world.prepared.items() if plan.lasting_root)
    return {each: world.roots_made[each].index(world.roots[each]) for each in lasting}


async def undisturbed(case: Case) -> tuple[dict[str, Any], int, list[str]]:
    """Return how a case ends, how many writes it takes, and what it asks."""
    host = agents.FakeHost()
    agent = await host.agent()
    await case.prepare(host, agent)
    await asyncio.sleep(0.1)
    before, asked = agent.database.writes, len(host.world.trace)
    await case.act(host, agent)
    await settle(agent)
    writes = agent.database.writes - before
    found, trace = ending(host), host.world.trace[asked:]
    await host.close()
    return found, writes, trace


async def settle(agent: agents.Agent) -> str:
    """Wait until the machine rests and goes on resting."""
    state = ""
    for _ in range(3):
        state = await agent.rest(M)
        await asyncio.sleep(2)
    return state


@pytest.mark.parametrize("name", CASES)
def test_a_good_run_asks_the_host_in_this_order(name: str) -> None:
    case = CASES[name]
    found, _, trace = clock.run(undisturbed(case))
    watching = ["vmm.connect"] if case.ends == "started" else []
    looks = {"vmm.exit_record", "vmm.has_snapshot"} - set(case.asks)
    seen = [verb for verb in trace if verb not in looks]
    # The driver looks at an exit before it decides, and watches what it started.
    if case.kind in ("relaunch", "settle") or case.act is exits:
        assert seen.pop(0) == "vmm.exit_record"
    assert seen == [*case.asks, *watching]
    assert found["states"][0] == case.ends
    assert found["unfinished"] == []


async def killed_at(case: Case, writes: list[tuple[int, str]]) -> tuple[dict[str, Any], list[str]]:
    """Run a case with the agent killed at a write, the next agent perhaps too; then carry on.

    Returns how it ends, and the verbs that were asked again although their step was recorded.
    """
    host = agents.FakeHost()
    agent = await host.agent()
    await case.prepare(host, agent)
    await asyncio.sleep(0.1)
    number, when = writes[0]
    earlier = len(rows_of(host, case.kind))
    agent.database.kill_at = (agent.database.writes + number, when)
    acting = asyncio.get_running_loop().create_task(case.act(host, agent))
    await agent.killed.wait()
    await agent.bury()
    with_killed(acting)
    recorded = recorded_verbs(host)
    asked = len(host.world.trace)
    for kill in writes[1:]:
        agent = agents.Agent(host, kill)
        host.agents.append(agent)
        try:
            await agent.start()
            async with asyncio.timeout(200):
                await agent.killed.wait()
        except (Killed, TimeoutError):
            pass
        await agent.bury()
    agent = await host.agent()
    begun = len(rows_of(host, case.kind)) > earlier
    if not begun and case.act is not exits and case.act is not breaks:
        await case.act(host, agent)
    await settle(agent)
    found = ending(host)
    again = [verb for verb in host.world.trace[asked:] if verb in recorded]
    if case.hands_off:
        again = [verb for verb in again if case.asks.count(verb) == 1]
    assert host.world.lies == []
    await host.close()
    return found, again


def with_killed(acting: "asyncio.Task[Any]") -> None:
    """Take what an act met when its agent was killed; it never got an answer."""
    acting.cancel()
    if acting.done() and not acting.cancelled():
        assert acting.exception() is None or isinstance(acting.exception(), Killed)


def recorded_verbs(host: agents.FakeHost) -> set[str]:
    """Return verbs that only recorded steps of the unfinished operation would ask."""
    left = host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL")
    if not left:
        return set()
    (row,) = left
    done = {
        entry["step"]
        for entry in host.rows("SELECT * FROM entries WHERE kind = 'done'")
        if entry["operation_id"] == row["id"]
    }
    verbs: set[str] = set().union(*(VERBS[step] for step in done))
    for step in json.loads(row["steps"]):
        if step not in done:
            verbs -= VERBS[step]
    # What recovery, the watcher and a following teardown ask as well.
    return verbs - {"vmm.connect", "vmm.exit_record", "vmm.discard", "network.unplumb"}


@pytest.mark.parametrize("name", CASES)
def test_killed_before_or_after_any_write_it_ends_as_if_undisturbed(name: str) -> None:
    case = CASES[name]
    reference, writes, _ = clock.run(undisturbed(case))
    assert writes >= 1
    for number, when in itertools.product(range(1, writes + 1), ("before", "after")):
        found, again = clock.run(killed_at(case, [(number, when)]))
        assert found == reference, (number, when)
        assert again == [], (number, when)


@pytest.mark.parametrize(
    "name",
    [
        *("launch", "stop", "update", "exit and again", "destroy by force"),
        *("suspend", "resume", "resume that becomes a start"),
        *("restart of a lasting one", "update of a lasting one"),
    ],
)
def test_killed_again_while_coming_back_it_still_ends_so(name: str) -> None:
    case = CASES[name]
    reference, writes, _ = clock.run(undisturbed(case))
    for number, second in itertools.product(range(1, writes + 1), range(1, 5)):
        kills = [(number, "after"), (second, "before")]
        found, _ = clock.run(killed_at(case, kills))
        assert found == reference, kills


@pytest.mark.parametrize(
    "name",
    [
        *("launch", "stop", "update", "restart", "exit and again", "resume"),
        *("stop of a suspended one", "restart of a lasting one", "update of a lasting one"),
    ],
)
def test_the_host_restarted_at_any_write_it_ends_in_the_same_state(name: str) -> None:
    case = CASES[name]
    reference, writes, _ = clock.run(undisturbed(case))

    async def restarted(number: int) -> dict[str, Any]:
        host = agents.FakeHost()
        agent = await host.agent()
        await case.prepare(host, agent)
        await asyncio.sleep(0.1)
        agent.database.kill_at = (agent.database.writes + number, "after")
        acting = asyncio.get_running_loop().create_task(case.act(host, agent))
        await agent.killed.wait()
        await agent.bury()
        with_killed(acting)
        host.machinery.restart_host()
        agent = await host.agent()
        if not rows_of(host, case.kind) and case.act is not exits:
            await case.act(host, agent)
        await settle(agent)
        found = ending(host)
        assert host.world.lies == []
        await host.close()
        return found

    for number in range(1, writes + 1):
        found = clock.run(restarted(number))
        same = ("states", "versions", "remains", "versions running", "unfinished", "lasting roots")
        for part in same:
            assert found[part] == reference[part], (number, part)
        assert found["usage"].count(True) == reference["usage"].count(True), number


@pytest.mark.parametrize("prepare", [stopped, suspended], ids=["stopped", "suspended"])
def test_killed_while_clearing_what_lies_beside_a_machine_at_rest_the_next_agent_clears_it(
    prepare: Act,
) -> None:
    async def cleared(number: int, when: str) -> bool:
        """Return whether the agent came as far as to be killed."""
        host = agents.FakeHost()
        first = await host.agent()
        await prepare(host, first)
        before = ending(host)
        await first.kill()
        host.world.taps.add(2)
        second = agents.Agent(host, (number, when))
        host.agents.append(second)
        with contextlib.suppress(Killed, TimeoutError):
            await second.start()
            async with asyncio.timeout(60):
                await second.killed.wait()
        await second.bury()
        await settle(await host.agent())
        assert ending(host) == before, (number, when)
        assert [row["outcome"] for row in rows_of(host, "clear")] == ["done"], (number, when)
        assert host.world.lies == []
        await host.close()
        return second.killed.is_set()

    for when in ("before", "after"):
        killed = [clock.run(cleared(number, when)) for number in range(1, 12)]
        assert killed.count(True) >= 5
        assert not killed[-1]


def test_a_recorded_step_that_this_build_lacks_parks_that_machine_only() -> None:
    async def whole() -> None:
        host = agents.FakeHost()
        agent = await host.agent()
        await started(host, agent)
        await agent.create("0000000000000b")
        agent.database.kill_at = (agent.database.writes + 3, "after")
        await agent.killed.wait()
        await agent.bury()
        with host.connection as connection:
            connection.execute(
                "UPDATE operations SET steps = replace(steps, 'boot', 'hatch')"
                " WHERE ended_at_ms IS NULL"
            )
        agent = await host.agent()
        other = agent.driver("0000000000000b").snapshot
        assert other.shown == "failed"
        assert other.sentence == "this version of Godwit has no step 'hatch' of 'start'"
        assert agent.driver(M).snapshot.shown == "started"
        await agent.ask("0000000000000b", "destroy")
        assert await agent.rest("0000000000000b") == "destroyed"
        await host.close()

    clock.run(whole())


def test_every_step_of_every_operation_is_in_the_catalogue() -> None:
    for kind, operation in operations.OPERATIONS.items():
        assert set(operation.steps) <= set(steps.CATALOGUE), kind
        assert len(set(operation.steps)) == len(operation.steps), kind


def test_the_oracle_knows_every_step() -> None:
    assert set(VERBS) == set(steps.CATALOGUE)


def test_steps_on_the_way_down_have_no_patience_limit() -> None:
    for kind, course in lifecycle.COURSES.items():
        if course.tearing_down:
            for name in operations.OPERATIONS[kind].steps:
                assert steps.CATALOGUE[name].patience_s is None, name
