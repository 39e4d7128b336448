"""One machine's life on a fake host: what users see, what is left, what is written down."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from godwit.agent.machines import waits
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.testing import agents, clock
from godwit.testing.world import Boot

M = "0000000000000a"
NOTHING = {"vms": [], "taps": [], "prepared": []}
NO_IMAGE = "sha256:" + "0" * 64

Body = Callable[[agents.FakeHost, agents.Agent], Awaitable[None]]


def scenario(body: Body) -> None:
    """Run a body with a host and its first agent; no lie may have come about."""

    async def whole() -> None:
        host = agents.FakeHost()
        try:
            await body(host, await host.agent())
            assert host.world.lies == []
        finally:
            await host.close()

    clock.run(whole())


def events(host: agents.FakeHost) -> list[dict[str, Any]]:
    return [
        json.loads(row["record"]) for row in host.rows("SELECT record FROM events ORDER BY id")
    ]


def types(host: agents.FakeHost) -> list[str]:
    return [event["type"] for event in events(host)]


def intervals(host: agents.FakeHost) -> list[dict[str, Any]]:
    return host.rows("SELECT * FROM usage ORDER BY id")


def test_a_machine_goes_from_offer_to_started_to_stopped_to_destroyed() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        assert driver.snapshot.shown == "starting"
        assert await agent.rest(M) == "started"
        assert host.world.running(M)
        assert host.world.taps == {2}
        await agent.ask(M, "stop")
        assert driver.snapshot.shown == "stopping"
        assert await agent.rest(M) == "stopped"
        assert host.world.remains() == NOTHING
        await agent.ask(M, "destroy")
        assert await agent.rest(M) == "destroyed"
        assert types(host) == ["launch", "start", "stop", "exit", "destroy"]

    scenario(body)


def test_skip_launch_prepares_and_rests_stopped() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M, skip_launch=True)
        assert driver.snapshot.shown == "created"
        assert await agent.rest(M) == "stopped"
        assert host.world.images == {agents.DIGEST}
        assert host.world.remains() == NOTHING
        assert [(event["type"], event["status"]) for event in events(host)] == [
            ("launch", "created")
        ]

    scenario(body)


def test_a_created_machine_refuses_to_start_until_it_is_prepared() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, skip_launch=True)
        with pytest.raises(errors.Failure, match="current state: 'created'"):
            await agent.ask(M, "start")
        await agent.rest(M)
        assert await agent.ask(M, "start") == "stopped"
        assert await agent.rest(M) == "started"

    scenario(body)


def test_asking_twice_is_asking_once() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.create(M)
        assert await agent.ask(M, "start") == "starting"
        await agent.rest(M)
        assert await agent.ask(M, "start") == "started"
        await agent.ask(M, "stop")
        await agent.ask(M, "stop")
        await agent.rest(M)
        await agent.ask(M, "stop")
        assert host.world.asked[f"vmm.spawn:{M}"] == 1
        assert types(host) == ["launch", "start", "stop", "exit"]

    scenario(body)


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


def test_the_stop_is_signalled_as_asked_else_as_configured() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"stop_config": {"signal": "SIGTERM"}})
        await agent.rest(M)
        vm = host.world.vms[M]
        await agent.ask(M, "stop")
        await agent.rest(M)
        assert vm.signals == ["SIGTERM"]
        await agent.ask(M, "start")
        await agent.rest(M)
        vm = host.world.vms[M]
        await agent.ask(M, "stop", signal="SIGQUIT")
        await agent.rest(M)
        assert vm.signals == ["SIGQUIT"]

    scenario(body)


def test_a_process_that_ignores_the_stop_is_killed_after_its_time() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(ignores_stop=True))
        await agent.create(M)
        await agent.rest(M)
        before = host.clock.monotonic()
        await agent.ask(M, "stop", timeout_ms=30_000)
        assert await agent.rest(M) == "stopped"
        assert 30 <= host.clock.monotonic() - before < 45
        assert host.world.remains() == NOTHING

    scenario(body)


def test_force_destroys_a_running_machine_and_gentleness_does_not() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        with pytest.raises(errors.Failure, match="use force"):
            await agent.ask(M, "destroy")
        await agent.ask(M, "kill", signal="SIGKILL")
        assert await agent.rest(M) == "destroyed"
        assert host.world.remains() == NOTHING
        with pytest.raises(errors.Failure, match="destroyed"):
            await agent.ask(M, "start")
        assert await agent.ask(M, "destroy") == "destroyed"

    scenario(body)


def test_a_missing_entrypoint_fails_with_a_sentence_and_leaves_nothing() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.image_config = ImageConfig()
        driver = await agent.create(M)
        assert await agent.rest(M) == "failed"
        assert driver.snapshot.sentence == (
            "image has neither ENTRYPOINT nor CMD; set one or init.exec"
        )
        assert host.world.remains() == NOTHING
        assert types(host) == ["launch", "fail"]
        assert agent.books.free_memory_mb == host.capacity.memory_mb

    scenario(body)


def test_an_image_that_is_not_there_fails_with_a_sentence() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M, image=agents.image(NO_IMAGE))
        assert await agent.rest(M) == "failed"
        assert "no image registry.example/hello:v1" in driver.snapshot.sentence
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_process_that_init_cannot_start_fails_at_once() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("refuses"))
        driver = await agent.create(M)
        assert await agent.rest(M) == "failed"
        assert driver.snapshot.sentence == (
            "the machine's process could not be started: no such program: serve"
        )
        assert host.world.asked[f"vmm.spawn:{M}"] == 1
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_dead_boot_is_tried_again_and_three_are_enough() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend([Boot("dies"), Boot("hangs"), Boot()])
        await agent.create(M)
        assert await agent.rest(M) == "started"
        assert host.world.asked[f"vmm.spawn:{M}"] == 3
        assert len(host.world.vms) == 1

    async def hopeless(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend(Boot("dies") for _ in range(9))
        driver = await agent.create(M)
        assert await agent.rest(M) == "failed"
        assert "did not boot in 3 attempts" in driver.snapshot.sentence
        assert host.world.asked[f"vmm.spawn:{M}"] == 3
        assert host.world.remains() == NOTHING

    scenario(body)
    scenario(hopeless)


def test_a_failed_machine_can_be_started_again() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("refuses"))
        driver = await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert driver.snapshot.sentence == ""

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


def test_restart_gives_a_new_process() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        first = host.world.vms[M].number
        await agent.ask(M, "restart")
        assert agent.driver(M).snapshot.shown == "restarting"
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].number != first
        assert types(host) == ["launch", "start", "restart", "exit", "launch", "start"]
        told = events(host)[3]["request"]["exit_event"]
        assert (told["requested_stop"], told["restarting"]) == (True, False)

    scenario(body)


def test_update_replaces_the_version_and_shows_it_at_once() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await agent.rest(M)
        update = agents.update(M, "01NEW", config={"env": {"X": "1"}})
        await agent.ask(M, "update", update=update)
        assert driver.snapshot.shown == "replacing"
        assert driver.snapshot.version == "01NEW"
        assert await agent.rest(M) == "started"
        assert driver.machine.config == {"env": {"X": "1"}}
        assert host.world.vms[M].plan.instance_id == "01NEW"

    scenario(body)


def test_update_without_launch_ends_stopped() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "replace", update=agents.update(M, "01NEW"))
        assert await agent.rest(M) == "stopped"
        assert driver.machine.instance_id == "01NEW"
        assert host.world.remains() == NOTHING

    scenario(body)


def test_an_update_to_a_missing_image_leaves_the_running_version_alone() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await agent.rest(M)
        before = host.world.vms[M].number
        version = driver.snapshot.version
        update = agents.update(M, "01NEW", image=agents.image(NO_IMAGE))
        await agent.ask(M, "update", update=update)
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].number == before
        assert driver.snapshot.version == version
        assert driver.snapshot.sentence.startswith("update failed: no image")

    scenario(body)


def test_an_update_takes_the_place_of_a_start_that_does_not_come_through() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("hangs"))
        await agent.create(M)
        await host.clock.sleep(10)
        await agent.ask(M, "update", update=agents.update(M, "01NEW"))
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].plan.instance_id == "01NEW"

    scenario(body)


def test_a_stale_update_is_refused() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        update = agents.update(M, "01NEW", current_version="01OLD")
        with pytest.raises(errors.Failure) as refused:
            await agent.ask(M, "update", update=update)
        assert refused.value.code == "conflict"

    scenario(body)


def test_stop_in_the_middle_of_a_boot_leaves_nothing() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("hangs"))
        await agent.create(M)
        await host.clock.sleep(5)
        assert host.world.vms
        await agent.ask(M, "stop")
        assert await agent.rest(M) == "stopped"
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_start_asked_while_stopping_comes_after_it() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "stop")
        assert await agent.ask(M, "start") == "stopped"
        assert await agent.rest(M) == "started"
        assert host.world.asked[f"vmm.spawn:{M}"] == 2

    scenario(body)


def test_more_memory_than_the_host_has_is_refused_in_figures() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        with pytest.raises(errors.Failure) as refused:
            await agent.create(M, resources={"memory_mb": 8192})
        assert refused.value.code == "insufficient_capacity"
        assert "needs 8208 MB, 4096 MB of 4096 MB free" in refused.value.message
        assert host.rows("SELECT * FROM machines") == []

    scenario(body)


def test_a_stopped_machine_gives_its_memory_to_others_and_may_not_get_it_back() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, resources={"memory_mb": 3000})
        await agent.rest(M)
        await agent.ask(M, "stop")
        await agent.rest(M)
        await agent.create("0000000000000b", resources={"memory_mb": 3000})
        with pytest.raises(errors.Failure, match="needs 3016 MB"):
            await agent.ask(M, "start")
        assert agent.driver(M).snapshot.shown == "stopped"

    scenario(body)


def test_an_update_that_grows_too_much_is_refused_and_changes_nothing() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await agent.rest(M)
        update = agents.update(M, "01NEW", resources={"memory_mb": 9000})
        with pytest.raises(errors.Failure, match="needs 9016 MB"):
            await agent.ask(M, "update", update=update)
        assert (driver.snapshot.shown, driver.snapshot.version) == ("started", f"01V{M}")

    scenario(body)


def test_cordon_is_kept_through_operations_and_restarts_of_the_agent() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await driver.set_cordoned(cordoned=True)
        await agent.rest(M)
        assert driver.machine.cordoned
        await agent.kill()
        again = await host.agent()
        assert again.driver(M).machine.cordoned

    scenario(body)


def test_a_bug_in_a_step_fails_the_machine_with_the_step_named_and_takes_it_down() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.faults["vmm.spawn"].append(KeyError("slot"))
        driver = await agent.create(M)
        assert await agent.rest(M) == "failed"
        assert driver.snapshot.sentence == "internal error in spawn_vmm: KeyError('slot')"
        assert host.world.remains() == NOTHING
        await agent.create("0000000000000b")
        assert await agent.rest("0000000000000b") == "started"

    scenario(body)


def test_events_grow_and_their_ids_grow_with_them() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.clock.skew_ms -= 3_600_000
        await agent.ask(M, "stop")
        await agent.rest(M)
        times = [event["timestamp"] for event in events(host)]
        assert times == sorted(times)
        assert len(set(times)) == len(times)

    scenario(body)


def test_revisions_grow_with_every_change_and_across_agents() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        seen = [driver.snapshot.revision]
        driver_watch = agent.machines.on_change
        driver_watch(lambda changed: seen.append(changed.snapshot.revision))
        await agent.rest(M)
        assert seen == sorted(set(seen))
        await agent.kill()
        again = await host.agent()
        assert again.driver(M).snapshot.revision > seen[-1]

    scenario(body)


def test_a_disk_that_is_full_for_a_while_holds_the_machine_but_does_not_lose_it() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        import sqlite3

        await agent.create(M)
        await agent.rest(M)
        agent.database.trouble = sqlite3.OperationalError("database or disk is full")
        asking = agent.tasks.spawn(agent.ask(M, "stop"), name="ask")
        await host.clock.sleep(30)
        assert agent.driver(M).snapshot.shown == "started"
        assert "disk is full" in agent.driver(M).snapshot.sentence
        agent.database.trouble = None
        await asking
        assert await agent.rest(M) == "stopped"
        assert host.world.remains() == NOTHING

    scenario(body)


def test_an_update_that_fails_after_breaking_off_a_boot_leaves_nothing_of_that_boot() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("hangs"))
        await agent.create(M, skip_launch=True)
        await agent.rest(M)
        await agent.ask(M, "start")
        await host.clock.sleep(10)
        assert host.world.vms
        update = agents.update(M, "01NEW", image=agents.image(NO_IMAGE))
        await agent.ask(M, "update", update=update)
        assert await agent.rest(M) == "failed"
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_boot_that_is_tried_again_has_its_network_though_the_tap_was_taken() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("dies", boot_s=5))
        await agent.create(M)
        await host.clock.sleep(3)
        host.world.taps.clear()
        assert await agent.rest(M) == "started"
        assert host.world.taps == {2}

    scenario(body)


def test_cordon_in_the_very_moment_a_start_ends_is_not_lost() -> None:
    async def moment(turns: int) -> None:
        host = agents.FakeHost()
        host.world.scripts[M].append(Boot(boot_s=5))
        agent = await host.agent()
        driver = await agent.create(M)
        await host.clock.sleep(5)
        for _ in range(turns):
            await host.clock.sleep(0)
        await driver.set_cordoned(cordoned=True)
        await agent.rest(M)
        assert driver.machine.cordoned
        assert host.rows("SELECT cordoned FROM machines") == [{"cordoned": 1}]
        await host.close()

    for turns in range(25):
        clock.run(moment(turns))


def test_while_a_version_is_replaced_the_larger_of_both_is_held() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, resources={"memory_mb": 1024})
        await agent.rest(M)
        update = agents.update(M, "01NEW", resources={"memory_mb": 512})
        await agent.ask(M, "update", update=update)
        assert host.world.running(M)
        assert agent.books.free_memory_mb == host.capacity.memory_mb - 1024 - 16
        await agent.rest(M)
        assert agent.books.free_memory_mb == host.capacity.memory_mb - 512 - 16

    scenario(body)


def test_a_request_whose_asker_went_away_is_forgotten() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(ignores_stop=True))
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "stop", timeout_ms=20_000)
        asking = agent.tasks.spawn(agent.ask(M, "start"), name="ask")
        await host.clock.sleep(1)
        asking.cancel()
        assert await agent.rest(M) == "stopped"
        await host.clock.sleep(5)
        assert agent.driver(M).snapshot.shown == "stopped"

    scenario(body)


def test_nobody_can_pile_up_requests_without_end() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(ignores_stop=True))
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "stop", timeout_ms=60_000)
        asking = [agent.tasks.spawn(agent.ask(M, "start"), name="ask") for _ in range(32)]
        await host.clock.sleep(1)
        with pytest.raises(errors.Failure) as refused:
            await agent.ask(M, "start")
        assert refused.value.code == "rate_limited"
        assert {await each for each in asking} <= {"stopped", "starting"}

    scenario(body)
