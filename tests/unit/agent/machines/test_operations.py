"""Every operation: in what order it asks the host, killed at every write, failed at every step.

The oracle reads stored rows itself; the world remembers how often it was asked, apart from what
exists.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from godwit.agent.machines import lifecycle, operations, steps
from godwit.base import errors
from godwit.testing import agents, clock
from godwit.testing.world import Boot, Killed
from godwit.wire import shim

M = "0000000000000a"
NO_IMAGE = "sha256:" + "0" * 64

UP = ["images.ensure", "vmm.discard", "network.plumb", "vmm.prepare", "vmm.spawn", "vmm.connect"]
STOP = [
    *("vmm.connect", "session.status", "session.stop"),
    *("vmm.connect", "vmm.exit_record", "vmm.discard", "network.unplumb"),
]
DOWN = ["vmm.exit_record", "vmm.discard", "network.unplumb"]

VERBS: dict[str, set[str]] = {
    "log_launch": set(),
    "adopt_version": set(),
    "wait_before_restart": set(),
    "fetch_image": {"images.ensure"},
    "fetch_new_image": {"images.ensure"},
    "clear_remains": {"vmm.discard"},
    "plumb_network": {"network.plumb"},
    "prepare_vm": {"vmm.prepare"},
    "spawn_vmm": {"vmm.spawn"},
    "boot": {"vmm.connect", "vmm.exit_record"},
    "signal_guest": {"vmm.connect", "session.status", "session.stop"},
    "await_exit": {"vmm.connect", "session.kill"},
    "record_exit": {"vmm.exit_record"},
    "discard_vmm": {"vmm.discard"},
    "release_network": {"network.unplumb"},
}

Act = Callable[[agents.FakeHost, agents.Agent], Awaitable[Any]]


async def nothing(host: agents.FakeHost, agent: agents.Agent) -> None:
    """Do nothing."""


async def started(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M)
    assert await agent.rest(M) == "started"


async def started_once(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, config={"restart": {"policy": "no"}})
    assert await agent.rest(M) == "started"


async def started_for_one_job(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, config={"restart": {"policy": "no"}, "auto_destroy": True})
    assert await agent.rest(M) == "started"


async def stopped(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, skip_launch=True)
    assert await agent.rest(M) == "stopped"


def asking(request: lifecycle.Request, **given: Any) -> Act:
    async def act(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.ask(M, request, **given)

    return act


async def exits(host: agents.FakeHost, agent: agents.Agent) -> None:
    host.machinery.guest_exits(host.world.vms[M], 3)


async def breaks(host: agents.FakeHost, agent: agents.Agent) -> None:
    host.machinery.end(host.world.vms[M], cause="vmm", vmm=shim.VmmExit(signal=9))


async def creates(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M)


async def creates_only(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, skip_launch=True)


async def creates_without_image(host: agents.FakeHost, agent: agents.Agent) -> None:
    await agent.create(M, image=agents.image(NO_IMAGE))


async def creates_what_init_refuses(host: agents.FakeHost, agent: agents.Agent) -> None:
    if not host.world.scripts[M]:
        host.world.scripts[M].append(Boot("refuses"))
    await agent.create(M)


@dataclass(frozen=True)
class Case:
    """One operation to take apart.

    Attributes:
        kind: The operation that the act begins.
        prepare: Brings the machine where the operation starts from.
        act: Begins it.
        ends: The state it rests in.
        asks: The verbs of an undisturbed run, in order.
    """

    kind: lifecycle.Kind
    prepare: Act
    act: Act
    ends: str
    asks: list[str]


CASES = {
    "launch": Case("start", nothing, creates, "started", UP),
    "prepare": Case("prepare", nothing, creates_only, "stopped", ["images.ensure"]),
    "start": Case("start", stopped, asking("start"), "started", UP),
    "stop": Case("stop", started, asking("stop"), "stopped", STOP),
    "restart": Case("restart", started, asking("restart"), "started", [*STOP, *UP]),
    "update": Case(
        "update",
        started,
        asking("update", update=agents.update(M, "01NEW")),
        "started",
        ["images.ensure", *STOP, *UP],
    ),
    "replace": Case(
        "replace",
        started,
        asking("replace", update=agents.update(M, "01NEW")),
        "stopped",
        ["images.ensure", *STOP],
    ),
    "replace of a stopped one": Case(
        "replace",
        stopped,
        asking("replace", update=agents.update(M, "01NEW")),
        "stopped",
        ["images.ensure", "vmm.connect", "vmm.connect", *DOWN],
    ),
    "exit and again": Case(
        "relaunch", started, exits, "started", ["vmm.exit_record", "vmm.discard", *UP]
    ),
    "exit for good": Case("settle", started_once, exits, "stopped", DOWN),
    "vmm killed": Case("settle", started_once, breaks, "stopped", DOWN),
    "exit and destroy": Case(
        "destroy",
        started_for_one_job,
        exits,
        "destroyed",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "destroy": Case(
        "destroy",
        stopped,
        asking("destroy"),
        "destroyed",
        ["vmm.connect", "vmm.connect", *DOWN],
    ),
    "destroy by force": Case("destroy", started, asking("kill"), "destroyed", STOP),
    "no image": Case("start", nothing, creates_without_image, "failed", ["images.ensure", *DOWN]),
    "no such program": Case(
        "start",
        nothing,
        creates_what_init_refuses,
        "failed",
        [*UP, *DOWN],
    ),
}


def rows_of(host: agents.FakeHost, kind: str) -> list[dict[str, Any]]:
    return host.rows(f"SELECT * FROM operations WHERE kind = '{kind}'")


def ending(host: agents.FakeHost) -> dict[str, Any]:
    """Return all that must be equal after an operation, however it was disturbed."""
    stored = host.rows("SELECT * FROM machines")
    events = [json.loads(row["record"]) for row in host.rows("SELECT * FROM events ORDER BY id")]
    return {
        "states": [row["state"] for row in stored],
        "versions": [json.loads(row["record"])["instance_id"] for row in stored],
        "remains": host.world.remains(),
        "versions running": [vm.plan.instance_id for vm in host.world.vms.values()],
        "events": [(event["type"], event["status"]) for event in events],
        "usage": [row["ended_at_ms"] is None for row in host.rows("SELECT * FROM usage")],
        "unfinished": host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL"),
    }


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
    seen = [verb for verb in trace if not (verb == "vmm.exit_record" and verb not in case.asks)]
    # The driver looks at an exit before it decides, and watches what it started.
    if case.kind in ("relaunch", "settle") or case.act is exits:
        assert seen.pop(0) == "vmm.exit_record"
    assert seen == [*case.asks, *watching]
    assert found["states"] == [case.ends]
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
    if not rows_of(host, case.kind) and case.act is not exits and case.act is not breaks:
        await case.act(host, agent)
    await settle(agent)
    found = ending(host)
    again = [verb for verb in host.world.trace[asked:] if verb in recorded]
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
    assert writes >= 2
    for number, when in itertools.product(range(1, writes + 1), ("before", "after")):
        found, again = clock.run(killed_at(case, [(number, when)]))
        assert found == reference, (number, when)
        assert again == [], (number, when)


@pytest.mark.parametrize(
    "name", ["launch", "stop", "update", "exit and again", "destroy by force"]
)
def test_killed_again_while_coming_back_it_still_ends_so(name: str) -> None:
    case = CASES[name]
    reference, writes, _ = clock.run(undisturbed(case))
    for number, second in itertools.product(range(1, writes + 1), range(1, 5)):
        kills = [(number, "after"), (second, "before")]
        found, _ = clock.run(killed_at(case, kills))
        assert found == reference, kills


@pytest.mark.parametrize("name", ["launch", "stop", "update", "restart", "exit and again"])
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
        for part in ("states", "versions", "remains", "versions running", "unfinished"):
            assert found[part] == reference[part], (number, part)
        assert found["usage"].count(True) == reference["usage"].count(True), number


class Endless(deque[BaseException]):
    """A fault that never goes away."""

    def popleft(self) -> BaseException:
        """Return it again."""
        return self[0]


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


@pytest.mark.parametrize("name", ["launch", "update", "stop", "exit and again", "destroy"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_step_that_fails_a_little_is_made_good(name: str, times: int) -> None:
    case = CASES[name]
    reference, _, _ = clock.run(undisturbed(case))
    for verb in {*case.asks} & {*UP_VERBS, *DOWN_VERBS, "session.stop", "session.status"}:
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
    assert found["remains"] == {"vms": [], "taps": [], "prepared": []}
    assert found["unfinished"] == []
    assert True not in found["usage"]


@pytest.mark.parametrize("verb", UP_VERBS)
def test_a_step_that_aborts_fails_the_machine_at_once_and_leaves_nothing(verb: str) -> None:
    refusal = errors.Failure("invalid_argument", "this cannot be")
    found = clock.run(with_faults(CASES["launch"], verb, deque([refusal])))
    assert found["states"] == ["failed"]
    assert found["sentence"] == "this cannot be"
    assert found["remains"] == {"vms": [], "taps": [], "prepared": []}


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
        assert host.world.remains() == {"vms": [], "taps": [], "prepared": []}
        await host.close()

    clock.run(whole())


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
