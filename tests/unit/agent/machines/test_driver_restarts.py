"""Exits of a machine's process and its VMM: seen, told, and brought back from by policy."""

import asyncio

from godwit.agent.machines import waits
from godwit.testing import agents
from godwit.testing.world import Boot
from godwit.wire import shim
from tests.unit.agent.machines.driving import (
    NO_IMAGE,
    NOTHING,
    M,
    events,
    intervals,
    scenario,
    types,
)


def test_the_process_exits_and_on_failure_brings_it_back() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(exit_after_s=5, exit_code=3))
        driver = await agent.create(M)
        await agent.rest(M)
        assert await agent.reach(M, "restarting") == "restarting"
        assert await agent.rest(M) == "started"
        assert types(host) == ["launch", "start", "exit", "launch", "start"]
        told = events(host)[2]["request"]
        assert told["exit_event"]["exit_code"] == 3
        assert told["exit_event"]["restarting"] is True
        assert told["exit_event"]["requested_stop"] is False
        assert told["MonitorEvent"]["exit_event"] == told["exit_event"]
        assert driver.machine.restarts.count == 1
        assert [row["ended_at_ms"] is None for row in intervals(host)] == [False, True]

    scenario(body)


def test_a_clean_exit_leaves_it_stopped() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(exit_after_s=5))
        driver = await agent.create(M)
        assert await agent.reach(M, "stopped") == "stopped"
        assert host.world.remains() == NOTHING
        assert driver.snapshot.sentence == "exited with code 0"
        assert driver.machine.exit_code == 0
        (row,) = intervals(host)
        assert row["ended_at_ms"] - row["started_at_ms"] == 5_000

    scenario(body)


def test_auto_destroy_removes_it_and_it_can_still_be_read() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(exit_after_s=2, exit_code=7))
        config = {"auto_destroy": True, "restart": {"policy": "no"}}
        driver = await agent.create(M, config=config)
        assert await agent.reach(M, "destroyed") == "destroyed"
        assert host.world.remains() == NOTHING
        embedded = [event.type for event in driver.snapshot.events]
        assert embedded == ["destroy", "exit", "start", "launch"]
        assert events(host)[2]["request"]["exit_event"]["exit_code"] == 7

    scenario(body)


def test_a_crash_loop_ends_stopped_and_says_why() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend(Boot(exit_after_s=1, exit_code=1) for _ in range(20))
        driver = await agent.create(M, config={"restart": {"max_retries": 3}})
        assert await agent.reach(M, "stopped") == "stopped"
        assert host.world.asked[f"vmm.spawn:{M}"] == 4
        assert "restarted 3 times" in driver.snapshot.sentence
        last = [event for event in events(host) if event["type"] == "exit"][-1]
        assert last["request"]["restart_count"] == 3
        assert last["request"]["exit_event"]["restarting"] is False

    scenario(body)


def test_a_stop_breaks_off_the_wait_for_a_restart() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend(Boot(exit_after_s=0.5, exit_code=1) for _ in range(9))
        await agent.create(M)
        await host.clock.sleep(40)
        before = host.clock.monotonic()
        await agent.ask(M, "stop")
        assert await agent.rest(M) == "stopped"
        assert host.clock.monotonic() - before < 1

    scenario(body)


def test_a_start_by_a_person_forgets_earlier_restarts() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(exit_after_s=0.5, exit_code=1))
        driver = await agent.create(M)
        await agent.reach(M, "restarting")
        await agent.rest(M)
        await agent.ask(M, "stop")
        await agent.rest(M)
        await agent.ask(M, "start")
        assert driver.machine.restarts.count == 0

    scenario(body)


def test_a_killed_vmm_is_seen_and_reported() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        from godwit.wire import shim

        vm = host.world.vms[M]
        host.machinery.end(vm, cause="vmm", vmm=shim.VmmExit(signal=9))
        assert await agent.reach(M, "stopped") == "stopped"
        told = events(host)[-1]["request"]["exit_event"]
        assert (told["exit_code"], told["signal"]) == (137, 9)
        assert any("signal 9" in text for _, text in host.world.log)
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_vm_that_vanished_without_a_record_counts_as_a_crash() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await host.clock.sleep(10)
        host.machinery.lose(M)
        await agent.reach(M, "restarting")
        assert await agent.rest(M) == "started"
        lost = next(event for event in events(host) if event["type"] == "exit")
        assert lost["request"]["exit_event"]["exit_code"] == -1
        assert intervals(host)[0]["ended_at_ms"] - intervals(host)[0]["started_at_ms"] >= 9_000

    scenario(body)


def test_a_very_fast_exit_is_still_seen_as_started_first() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(exit_after_s=0))
        driver = await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.reach(M, "stopped")
        assert types(host) == ["launch", "start", "exit"]
        answer = await driver.wait(waits.Wanted(("started",)))
        assert isinstance(answer, waits.Reached)
        assert answer.event_id == events(host)[1]["id"]

    scenario(body)


def test_a_machine_that_comes_to_rest_tells_so_by_an_event_however_it_got_there() -> None:
    async def stopped_after_its_newest_event(agent: agents.Agent) -> bool:
        driver = agent.driver(M)
        wanted = waits.Wanted(("stopped",), after_event_id=driver.snapshot.events[0].id)
        async with asyncio.timeout(60):
            return isinstance(await driver.wait(wanted), waits.Reached)

    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, skip_launch=True)
        assert await stopped_after_its_newest_event(agent)
        await agent.ask(M, "replace", update=agents.update(M, "01NEW"))
        assert await stopped_after_its_newest_event(agent)
        await agent.ask(M, "start")
        await agent.rest(M)
        await agent.ask(M, "suspend")
        await agent.rest(M)
        await agent.ask(M, "stop")
        assert await stopped_after_its_newest_event(agent)
        missing = agents.update(M, "01NEVER", image=agents.image(NO_IMAGE))
        await agent.ask(M, "replace", update=missing)
        assert await stopped_after_its_newest_event(agent)
        assert events(host)[-1]["type"] == "fail"

    scenario(body)


def test_a_crash_tells_its_last_words_in_the_event_and_in_the_sentence() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.output[M] = ["listening", "panic: no database"]
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        host.machinery.guest_exits(host.world.vms[M], 2)
        assert await agent.reach(M, "stopped") == "stopped"
        sentence = agent.driver(M).snapshot.sentence
        assert sentence == "exited with code 2; it wrote last: panic: no database"
        told = events(host)[-1]["request"]
        assert told["last_words"] == ["listening", "panic: no database"]
        assert told["exit_event"]["exit_code"] == 2

    scenario(body)


def test_an_exit_that_was_asked_for_and_a_clean_one_have_no_crash_report() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.output[M] = ["bye"]
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "stop")
        await agent.rest(M)
        await agent.ask(M, "start")
        await agent.rest(M)
        host.machinery.guest_exits(host.world.vms[M], 0)
        assert await agent.reach(M, "stopped") == "stopped"
        ended = [event for event in events(host) if event["type"] == "exit"]
        assert len(ended) == 2
        assert all("last_words" not in event["request"] for event in ended)
        assert agent.driver(M).snapshot.sentence == "exited with code 0"

    scenario(body)


def test_running_out_of_memory_is_told_apart_from_a_kill() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        killed = shim.GuestExit(exit_code=137, signal=9, oom_killed=True)
        host.machinery.end(host.world.vms[M], cause="guest", guest=killed)
        assert await agent.reach(M, "stopped") == "stopped"
        sentence = agent.driver(M).snapshot.sentence
        assert sentence == "ran out of memory and was killed (exit code 137)"
        assert events(host)[-1]["request"]["exit_event"]["oom_killed"] is True

    scenario(body)


def test_a_vmm_that_the_host_killed_for_want_of_memory_says_so() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        host.world.ran_out.add(M)
        host.machinery.end(host.world.vms[M], cause="vmm", vmm=shim.VmmExit(signal=9))
        assert await agent.reach(M, "stopped") == "stopped"
        sentence = agent.driver(M).snapshot.sentence
        assert sentence == "ran out of memory and was killed (exit code 137)"
        told = events(host)[-1]["request"]["exit_event"]
        assert (told["oom_killed"], told["exit_code"]) == (True, 137)

    scenario(body)
