"""Scheduled machines on a fake host: started when due, once for what was missed, durably."""

import json
from collections.abc import Awaitable, Callable

from godwit.agent.machines import scheduler
from godwit.testing import agents, clock
from godwit.testing.world import Boot
from tests.unit.agent.machines.driving import NOTHING, M, events, scenario, types

HOUR_S = 3600.0
HOURLY = {"schedule": "hourly"}
JOB = Boot(exit_after_s=30.0)

Body = Callable[[agents.FakeHost, agents.Agent], Awaitable[None]]


async def passes(host: agents.FakeHost, agent: agents.Agent, seconds: float) -> None:
    """Let time pass with an agent that looks at its schedules as often as the real one."""
    looking = scheduler.Scheduler(lambda: agent.machines, host.clock, agent.tasks)
    until = host.clock.monotonic() + seconds
    while host.clock.monotonic() < until:
        await looking.tick()
        await host.clock.sleep(15)


def runs(host: agents.FakeHost) -> int:
    return host.world.asked[f"vmm.spawn:{M}"]


async def job(host: agents.FakeHost, agent: agents.Agent) -> None:
    host.world.scripts[M].extend([JOB] * 50)
    await agent.create(M, config=HOURLY)
    assert await agent.reach(M, "stopped") == "stopped"


def test_it_runs_once_at_its_creation_and_then_once_an_hour() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await job(host, agent)
        assert runs(host) == 1
        await passes(host, agent, 5 * HOUR_S)
        assert runs(host) in (5, 6)
        await agent.reach(M, "stopped")
        assert host.world.remains() == NOTHING
        assert types(host)[:6] == ["launch", "start", "exit"] * 2

    scenario(body)


def test_created_without_a_launch_its_first_run_is_the_first_that_is_due() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend([JOB] * 50)
        await agent.create(M, config=HOURLY, skip_launch=True)
        await passes(host, agent, HOUR_S - 60)
        assert runs(host) == 0
        await passes(host, agent, 120)
        assert runs(host) == 1

    scenario(body)


def test_what_was_missed_while_nobody_looked_happens_once() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await job(host, agent)
        await agent.kill()
        await host.clock.sleep(10 * HOUR_S + 600)
        again = await host.agent()
        await passes(host, again, 600)
        assert runs(host) == 2
        await passes(host, again, HOUR_S)
        assert runs(host) == 3

    scenario(body)


def test_a_crash_in_the_very_write_that_begins_a_run_does_not_run_it_twice() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await job(host, agent)
        await host.clock.sleep(HOUR_S)
        agent.database.kill_at = (agent.database.writes + 1, "after")
        looking = scheduler.Scheduler(lambda: agent.machines, host.clock, agent.tasks)
        await looking.tick()
        await agent.killed.wait()
        await agent.bury()
        again = await host.agent()
        await passes(host, again, 600)
        assert runs(host) == 2

    scenario(body)


def test_a_run_that_is_due_while_the_last_one_goes_on_is_passed_over() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(exit_after_s=2.5 * HOUR_S))
        await agent.create(M, config=HOURLY)
        await agent.rest(M)
        await passes(host, agent, 2.6 * HOUR_S)
        assert runs(host) == 1
        assert agent.driver(M).snapshot.shown == "stopped"
        assert "schedule" not in types(host)
        await passes(host, agent, HOUR_S)
        assert runs(host) == 2

    scenario(body)


def test_a_run_that_is_due_while_a_version_is_replaced_never_puts_the_old_one_back() -> None:
    async def moment(turns: int) -> None:
        host = agents.FakeHost()
        agent = await host.agent()
        host.world.scripts[M].append(Boot(ignores_stop=True))
        await agent.create(M, config=HOURLY)
        await agent.rest(M)
        await host.clock.sleep(HOUR_S)
        update = agents.update(M, "01NEW", config=HOURLY)
        await agent.ask(M, "update", update=update, timeout_ms=0)
        driver = agent.driver(M)
        while "discard_vmm" not in (driver.run.done if driver.run else {}):
            await driver.next_change()
        for _ in range(turns):
            await host.clock.sleep(0)
        looking = scheduler.Scheduler(lambda: agent.machines, host.clock, agent.tasks)
        await looking.tick()
        await agent.rest(M)
        await host.clock.sleep(30)
        assert driver.machine.instance_id == "01NEW", turns
        (stored,) = host.rows("SELECT record FROM machines")
        assert json.loads(stored["record"])["instance_id"] == "01NEW", turns
        assert (driver.machine.due_ms or 0) > host.clock.now_ms()
        await host.close()

    for turns in range(20):
        clock.run(moment(turns))


def test_a_due_run_without_capacity_fails_with_an_event_and_a_sentence() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await job(host, agent)
        await agent.create("0000000000000b", resources={"memory_mb": 4000})
        await passes(host, agent, HOUR_S)
        assert runs(host) == 1
        shown = agent.driver(M).snapshot
        assert shown.shown == "stopped"
        assert shown.sentence.startswith("its scheduled start failed: insufficient resources")
        (told,) = [event for event in events(host) if event["type"] == "schedule"]
        assert told["machine_id"] == M
        assert told["request"]["reason"] == shown.sentence
        await agent.ask("0000000000000b", "kill")
        await passes(host, agent, HOUR_S)
        assert runs(host) == 2

    scenario(body)


def test_a_failing_run_is_repeated_by_the_restart_policy() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend([Boot(exit_after_s=1.0, exit_code=1), JOB])
        await agent.create(M, config=HOURLY)
        await passes(host, agent, 120)
        assert runs(host) == 2
        assert agent.driver(M).snapshot.shown == "stopped"

    scenario(body)


def test_a_schedule_that_comes_with_an_update_is_counted_from_the_creation() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, skip_launch=True)
        created = agent.driver(M).machine.created_at_ms
        await host.clock.sleep(1800)
        await agent.ask(M, "replace", update=agents.update(M, "01NEW", config=HOURLY))
        await agent.rest(M)
        assert agent.driver(M).machine.due_ms == created + 3_600_000
        await agent.ask(M, "replace", update=agents.update(M, "01NEWER"))
        await agent.rest(M)
        assert agent.driver(M).machine.due_ms is None

    scenario(body)


def test_a_destroyed_machine_is_due_no_more() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await job(host, agent)
        await agent.ask(M, "destroy")
        await agent.rest(M)
        await passes(host, agent, 3 * HOUR_S)
        assert runs(host) == 1
        assert agent.driver(M).snapshot.shown == "destroyed"

    scenario(body)


def test_a_standby_rests_stopped_until_somebody_starts_it() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"standbys": ["0000000000000b"]})
        assert await agent.rest(M) == "stopped"
        assert host.world.asked["vmm.spawn"] == 0
        assert agent.books.free_memory_mb == host.capacity.memory_mb
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"

    scenario(body)
