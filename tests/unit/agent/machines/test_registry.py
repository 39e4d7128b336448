"""All machines of a host: taken on once, found by those who may, brought back by the next agent."""

import sqlite3

import pytest

from godwit.agent.machines import parking
from godwit.base import errors, principal
from godwit.testing import agents
from godwit.testing.world import Boot
from godwit.wire import shim
from tests.unit.agent.machines.driving import NOTHING, M, events, intervals, scenario, types

N = "0000000000000b"
STRANGER = principal.Principal(
    subject="user:b@example.com",
    org_ids=frozenset({"org_b"}),
    scopes=principal.ALL_SCOPES,
)


def test_machines_get_slots_of_their_own_and_old_ones_rest_before_they_come_again() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        slots = []
        for number in range(4):
            machine_id = f"{number:014x}"
            driver = await agent.create(machine_id)
            slots.append(driver.machine.slot)
            await agent.rest(machine_id)
            await agent.ask(machine_id, "kill")
            await agent.rest(machine_id)
        assert slots == [2, 3, 4, 5]

    scenario(body)


def test_the_next_agent_lets_slots_rest_too() -> None:
    """An edge that has not heard of an end would take a new machine for the one before it."""

    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        gone = await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "kill")
        await agent.rest(M)
        await agent.ask(M, "destroy")
        assert await agent.rest(M) == "destroyed"
        await agent.kill()
        after = await host.agent()
        created = await after.create(N)
        assert (gone.machine.slot, created.machine.slot) == (2, 3)

    scenario(body)


def test_other_organizations_machines_do_not_exist() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        with pytest.raises(errors.Failure) as failed:
            agent.machines.get(STRANGER, M)
        assert failed.value.code == "not_found"
        assert agent.machines.of_app(STRANGER, "app_a") == []
        with pytest.raises(errors.Failure):
            await agent.machines.reserve(STRANGER, agents.offer(N))

    scenario(body)


def test_an_id_of_another_organization_is_taken() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        with pytest.raises(errors.Failure, match="is taken"):
            await agent.create(M, org_id="org_b")

    scenario(body)


def test_the_next_agent_adopts_what_runs() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        number = host.world.vms[M].number
        await agent.kill()
        again = await host.agent()
        await host.clock.sleep(5)
        assert again.driver(M).snapshot.shown == "started"
        assert host.world.vms[M].number == number
        assert again.books.free_memory_mb == 4096 - agents.takes_mb(host, 256)
        await again.ask(M, "stop")
        assert await again.rest(M) == "stopped"

    scenario(body)


def test_an_exit_while_nobody_looked_is_taken_in_with_its_code() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        await agent.kill()
        host.machinery.guest_exits(host.world.vms[M], 42)
        await host.clock.sleep(60)
        again = await host.agent()
        assert await again.reach(M, "stopped") == "stopped"
        assert again.driver(M).machine.exit_code == 42
        assert types(host) == ["launch", "start", "exit"]
        (row,) = intervals(host)
        assert row["ended_at_ms"] == row["started_at_ms"]
        assert host.world.remains() == NOTHING

    scenario(body)


def test_what_broke_away_while_nobody_looked_ends_where_the_agent_was_last_alive() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        await host.clock.sleep(30)
        await agent.machines.still_alive()
        await agent.kill()
        host.machinery.restart_host()
        await host.clock.sleep(3600)
        again = await host.agent()
        assert await again.reach(M, "stopped") == "stopped"
        (row,) = intervals(host)
        assert 29_000 <= row["ended_at_ms"] - row["started_at_ms"] <= 31_000

    scenario(body)


def test_the_end_nobody_saw_is_told_right_though_the_journal_cannot_be_written_at_first() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        await host.clock.sleep(100)
        await agent.machines.still_alive()
        alive_ms = host.clock.now_ms()
        await agent.kill()
        host.machinery.lose(M)
        await host.clock.sleep(1000)
        again = agents.Agent(host, None)
        host.agents.append(again)
        await again.start()
        again.database.trouble = sqlite3.OperationalError("database or disk is full")
        await host.clock.sleep(30)
        again.database.trouble = None
        assert await again.reach(M, "stopped") == "stopped"
        (usage,) = host.rows("SELECT ended_at_ms FROM usage")
        assert usage["ended_at_ms"] == alive_ms

    scenario(body)


def test_after_a_power_loss_machines_come_back_by_their_policy() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.create(N, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        await agent.rest(N)
        await agent.kill()
        host.machinery.restart_host()
        again = await host.agent()
        assert await again.reach(N, "stopped") == "stopped"
        await again.reach(M, "restarting")
        assert await again.rest(M) == "started"
        assert sorted(host.world.vms) == [M]

    scenario(body)


def test_parked_machines_come_back_and_stopped_ones_stay() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.create(N)
        await agent.rest(M)
        await agent.rest(N)
        await agent.ask(N, "stop")
        await agent.rest(N)
        await agent.kill()
        between = agents.Agent(host, None)
        host.agents.append(between)
        assert await parking.park(between.host, between.journal) == 1
        assert host.world.remains() == NOTHING
        assert host.world.asked["network.stop"] == 1
        exit_event = [event for event in events(host) if event["type"] == "exit"][-1]
        assert exit_event["request"]["exit_event"]["requested_stop"] is True
        assert all(row["ended_at_ms"] is not None for row in intervals(host))
        await between.bury()
        again = await host.agent()
        assert again.driver(M).snapshot.shown == "starting"
        assert await again.rest(M) == "started"
        assert again.driver(N).snapshot.shown == "stopped"
        await again.kill()
        host.machinery.restart_host()
        later = await host.agent()
        assert await later.reach(M, "stopped") == "stopped"

    scenario(body)


def test_parking_in_the_middle_of_operations_leaves_nothing_and_they_are_finished_later() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot("hangs"))
        await agent.create(M)
        await agent.create(N)
        await agent.rest(N)
        await host.clock.sleep(10)
        await agent.ask(N, "update", update=agents.update(N, "01NEW"))
        await host.clock.sleep(0.5)
        await agent.kill()
        between = agents.Agent(host, None)
        host.agents.append(between)
        await parking.park(between.host, between.journal)
        assert host.world.remains() == NOTHING
        await between.bury()
        again = await host.agent()
        assert await again.rest(M) == "started"
        assert await again.rest(N) == "started"
        assert host.world.vms[N].plan.instance_id == "01NEW"

    scenario(body)


def test_parking_does_not_wait_for_a_process_that_ignores_it() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(ignores_stop=True))
        await agent.create(M, config={"stop_config": {"timeout": "5m"}})
        await agent.rest(M)
        await agent.kill()
        between = agents.Agent(host, None)
        host.agents.append(between)
        before = host.clock.monotonic()
        await parking.park(between.host, between.journal)
        assert host.clock.monotonic() - before <= 60
        assert host.world.remains() == NOTHING

    scenario(body)


def test_what_nobody_recorded_is_removed() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.create(N)
        await agent.rest(M)
        await agent.rest(N)
        await agent.kill()
        with host.connection as connection:
            connection.execute("DELETE FROM machines WHERE machine_id = ?", (N,))
        again = await host.agent()
        assert sorted(host.world.vms) == [M]
        assert host.world.taps == {2}
        assert N not in host.world.directories
        assert again.driver(M).snapshot.shown == "started"

    scenario(body)


def test_what_is_left_of_a_machine_at_rest_is_cleared_and_its_state_kept() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.image_config = host.world.image_config.model_copy(update={"cmd": ()})
        await agent.create(M)
        await agent.rest(M)
        sentence = agent.driver(M).snapshot.sentence
        await agent.kill()
        host.world.taps.add(2)
        again = await host.agent()
        assert again.driver(M).snapshot.shown == "failed"
        assert await again.rest(M) == "failed"
        assert again.driver(M).snapshot.sentence == sentence
        assert host.world.remains() == NOTHING

    scenario(body)


def test_an_orphan_that_cannot_be_removed_does_not_keep_the_agent_from_starting() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.kill()
        host.world.taps.add(77)
        host.world.faults["network.unplumb"].append(OSError("busy"))
        again = await host.agent()
        await again.create(M)
        assert await again.rest(M) == "started"
        assert 77 in host.world.taps
        await again.kill()
        await host.agent()
        assert 77 not in host.world.taps

    scenario(body)


def test_logs_of_destroyed_machines_go_after_a_while_and_records_later() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "kill")
        await agent.rest(M)
        await agent.machines.tidy()
        assert M in host.world.directories
        await host.clock.sleep(16 * 60)
        await agent.machines.tidy()
        assert M not in host.world.directories
        assert agent.driver(M).snapshot.shown == "destroyed"
        await agent.machines.tidy()
        assert host.world.asked["vmm.forget"] == 1
        await host.clock.sleep(48 * 3600)
        await agent.machines.tidy()
        with pytest.raises(errors.Failure):
            agent.driver(M)
        assert events(host) == []
        assert len(intervals(host)) == 1
        assert agent.machines._apps == {}

    scenario(body)


def test_logs_that_could_not_be_removed_are_tried_again_and_the_record_waits_for_them() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "kill")
        await agent.rest(M)
        host.world.faults["vmm.forget"] += [OSError("busy"), OSError("busy")]
        await host.clock.sleep(16 * 60)
        await agent.machines.tidy()
        assert not agent.driver(M).machine.forgotten
        await host.clock.sleep(48 * 3600)
        await agent.machines.tidy()
        assert agent.driver(M).snapshot.shown == "destroyed"
        assert M in host.world.directories
        await agent.machines.tidy()
        assert M not in host.world.directories
        with pytest.raises(errors.Failure):
            agent.driver(M)

    scenario(body)


def test_a_killed_shim_is_seen_although_it_left_no_record() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        vm = host.world.vms[M]
        host.machinery.end(vm, cause="vmm", vmm=shim.VmmExit(signal=11))
        del host.world.exits[M]
        await agent.reach(M, "restarting")
        assert await agent.rest(M) == "started"

    scenario(body)


def test_usage_is_counted_while_it_runs_and_read_by_organization() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.create(N, org_id="org_b")
        await agent.rest(M)
        await agent.rest(N)
        await host.clock.sleep(100)
        await agent.ask(M, "stop")
        await agent.rest(M)
        everything = await agent.machines.store.usage(None, 0, 10)
        assert [each.machine_id for each in everything] == [M, N]
        assert everything[0].memory_mb == 256
        assert everything[1].ended_at_ms is None
        only_b = await agent.machines.store.usage(frozenset({"org_b"}), 0, 10)
        assert [each.org_id for each in only_b] == ["org_b"]
        assert await agent.machines.store.usage(None, everything[-1].id, 10) == []

    scenario(body)


def test_a_machine_whose_tap_vanished_is_restarted_with_a_network() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        number = host.world.vms[M].number
        host.world.taps.clear()
        await agent.machines.mend()
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].number != number
        assert host.world.taps == {2}
        (ended,) = [event for event in events(host) if event["type"] == "exit"]
        assert ended["request"]["exit_event"]["requested_stop"] is True

    scenario(body)


def test_a_machine_that_somebody_stops_is_not_restarted_behind_it_and_holds_up_no_mending() -> (
    None
):
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(ignores_stop=True))
        await agent.create(M)
        await agent.rest(M)
        host.world.taps.clear()
        stopping = agent.tasks.spawn(agent.ask(M, "stop", timeout_ms=300_000), name="stop")
        before = host.clock.monotonic()
        await agent.machines.mend()
        await stopping
        assert host.clock.monotonic() - before < 60
        assert await agent.rest(M) == "stopped"
        await host.clock.sleep(30)
        assert agent.driver(M).snapshot.shown == "stopped"

    scenario(body)


def test_a_vm_without_its_tap_is_not_adopted_but_restarted() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        number = host.world.vms[M].number
        await agent.kill()
        host.world.taps.clear()
        again = await host.agent()
        assert again.driver(M).snapshot.shown == "restarting"
        assert await again.rest(M) == "started"
        assert host.world.vms[M].number != number
        assert host.world.taps == {2}

    scenario(body)


def test_a_packet_policy_that_was_flushed_is_made_again() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.world.policy = False
        await agent.machines.mend()
        assert host.world.policy
        assert host.world.asked["vmm.spawn"] == 1

    scenario(body)


def test_a_vmm_that_somebody_stopped_goes_on_at_the_second_look() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.world.halted.add(M)
        await agent.machines.mend()
        assert host.world.halted == {M}
        await agent.machines.mend()
        assert host.world.halted == set()
        assert any("stopped by a signal" in text for _, text in host.world.log)
        assert agent.driver(M).snapshot.shown == "started"

    scenario(body)
