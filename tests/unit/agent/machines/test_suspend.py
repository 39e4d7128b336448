"""Suspend and resume on a fake host: what is saved, what is left, what is told, what is refused."""

import asyncio
from collections import deque
from dataclasses import replace

import pytest

from godwit.agent.machines import parking, waits
from godwit.base import errors
from godwit.testing import agents
from godwit.testing.world import Boot
from tests.unit.agent.machines.driving import NOTHING, M, events, intervals, scenario, types

SUSPENDED = {"vms": [], "taps": [], "prepared": [M], "saved": [M]}


async def suspended(agent: agents.Agent, **changes: object) -> None:
    await agent.create(M, **changes)
    assert await agent.rest(M) == "started"
    await agent.ask(M, "suspend", source="user")
    assert agent.driver(M).snapshot.shown == "suspending"
    assert await agent.rest(M) == "suspended"


def test_a_suspended_machine_keeps_disk_and_memory_image_and_nothing_else() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        assert host.world.remains() == SUSPENDED
        assert agent.driver(M).machine.sentence == ""

    scenario(body)


def test_it_runs_on_with_the_same_disk_and_without_a_boot() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        disk = host.world.saved[M].disk
        assert disk == host.world.disks[M]
        assert await agent.ask(M, "start") == "suspended"
        assert agent.driver(M).snapshot.shown == "starting"
        assert await agent.rest(M) == "started"
        assert host.world.running(M)
        assert host.world.asked[f"vmm.spawn:{M}"] == 1
        assert host.world.asked[f"vmm.prepare:{M}"] == 1
        assert host.world.saved == {}

    scenario(body)


def test_its_history_says_suspend_and_resume_and_the_last_start_is_the_newest() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        await agent.ask(M, "start", source="flyd")
        await agent.rest(M)
        told = [(event["type"], event["status"], event["source"]) for event in events(host)]
        assert told[2:] == [
            ("suspend", "suspending", "user"),
            ("suspend", "suspended", "flyd"),
            ("resume", "starting", "flyd"),
            ("start", "started", "flyd"),
        ]
        # A process that was suspended has not exited: the smoke check sees no exit.
        assert "exit" not in types(host)

    scenario(body)


def test_memory_is_held_while_suspended_and_time_is_not_counted() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        assert agent.books.free_memory_mb == 4096 - agents.takes_mb(host, 256)
        (first,) = intervals(host)
        assert first["ended_at_ms"] is not None
        await host.clock.sleep(3600)
        await agent.ask(M, "start")
        await agent.rest(M)
        first_again, second = intervals(host)
        assert first_again == first
        assert second["started_at_ms"] >= first["ended_at_ms"] + 3_600_000
        assert second["ended_at_ms"] is None
        await agent.ask(M, "suspend")
        await agent.rest(M)
        assert all(row["ended_at_ms"] is not None for row in intervals(host))

    scenario(body)


def test_without_a_usable_snapshot_it_boots_and_keeps_its_root() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        host.world.saved[M] = replace(host.world.saved[M], usable=False)
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].plan.keep_scratch
        assert host.world.asked[f"vmm.prepare:{M}"] == 2
        assert host.world.saved == {}
        assert types(host)[-3:] == ["resume", "launch", "start"]
        assert any("boots instead" in text for _, text in host.world.log)

    scenario(body)


def test_a_snapshot_whose_vm_dies_on_the_way_up_is_followed_by_a_boot_with_the_same_root() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        await agent.ask(M, "start")
        while M not in host.world.vms:
            await agent.driver(M).next_change()
        host.machinery.lose(M)
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].plan.keep_scratch

    scenario(body)


def test_a_later_boot_of_it_begins_with_a_fresh_root_again() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        host.world.saved.clear()
        await agent.ask(M, "start")
        await agent.rest(M)
        await agent.ask(M, "restart")
        await agent.rest(M)
        assert not host.world.vms[M].plan.keep_scratch

    scenario(body)


def test_an_image_that_is_gone_leaves_it_suspended_with_a_sentence() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        refusal = errors.Failure("manifest_unknown", "no such image any more")
        host.world.faults["images.ensure"] = deque([refusal])
        await agent.ask(M, "start")
        assert await agent.rest(M) == "suspended"
        assert agent.driver(M).snapshot.sentence == "resume failed: no such image any more"
        assert host.world.remains() == SUSPENDED
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert host.world.asked[f"vmm.spawn:{M}"] == 1

    scenario(body)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"init": {"swap_size_mb": 512}}, "it has swap"),
        ({"schedule": "daily"}, "it runs on a schedule"),
    ],
)
def test_what_cannot_be_suspended_is_refused_with_its_reason_or_stopped(
    config: dict[str, object], reason: str
) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config=config)
        await agent.rest(M)
        with pytest.raises(errors.Failure, match=reason) as refused:
            await agent.ask(M, "suspend")
        assert refused.value.code == "failed_precondition"
        assert host.world.running(M)
        await agent.ask(M, "suspend", or_stop=True)
        assert await agent.rest(M) == "stopped"
        assert host.world.asked["vmm.suspend"] == 0

    scenario(body)


def test_a_machine_with_much_memory_is_suspended_all_the_same() -> None:
    async def body(_: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent, resources={"memory_mb": 4000})

    scenario(body)


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_only_a_started_machine_can_be_suspended(state: str) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        if state == "failed":
            host.world.scripts[M].append(Boot("refuses"))
        await agent.create(M, skip_launch=state == "stopped")
        assert await agent.rest(M) == state
        with pytest.raises(errors.Failure, match="only a started machine"):
            await agent.ask(M, "suspend")

    scenario(body)


def test_what_cannot_be_saved_runs_on_or_is_stopped_where_that_would_do() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(unsuspendable=True))
        await agent.create(M)
        await agent.rest(M)
        number = host.world.vms[M].number
        await agent.ask(M, "suspend")
        assert await agent.rest(M) == "started"
        assert host.world.vms[M].number == number
        sentence = "suspend failed: the machine's state cannot be saved"
        assert agent.driver(M).snapshot.sentence == sentence
        await agent.ask(M, "suspend", or_stop=True)
        assert await agent.rest(M) == "stopped"
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_bug_while_saving_leaves_the_running_machine_alone() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.world.faults["vmm.suspend"] = deque([KeyError("oops")])
        await agent.ask(M, "suspend")
        assert await agent.rest(M) == "started"
        assert "internal error in save_state" in agent.driver(M).snapshot.sentence
        assert host.world.running(M)
        # And it is watched as before.
        host.machinery.guest_exits(host.world.vms[M], 0)
        assert await agent.reach(M, "stopped") == "stopped"

    scenario(body)


def test_a_process_that_ends_while_it_is_suspended_counts_as_an_exit() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        await agent.ask(M, "suspend")
        host.machinery.guest_exits(host.world.vms[M], 7)
        assert await agent.reach(M, "stopped") == "stopped"
        assert agent.driver(M).machine.exit_code == 7
        assert host.world.remains() == NOTHING

    scenario(body)


def test_a_stop_of_a_suspended_machine_discards_what_was_saved() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        await agent.ask(M, "stop")
        assert await agent.rest(M) == "stopped"
        assert host.world.remains() == NOTHING
        assert "exit" not in types(host)
        assert agent.books.free_memory_mb == host.capacity.memory_mb
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert not host.world.vms[M].plan.keep_scratch

    scenario(body)


@pytest.mark.parametrize("request_", ["stop", "kill"])
def test_what_comes_in_the_way_of_a_suspend_leaves_nothing(request_: str) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "suspend")
        while M not in host.world.saved:
            await asyncio.sleep(0)
        await agent.ask(M, "kill" if request_ == "kill" else "stop")
        await agent.rest(M)
        assert host.world.remains() == NOTHING
        assert all(row["ended_at_ms"] is not None for row in intervals(host))
        # Saved and thrown away is no crash.
        assert "exit" not in types(host)

    scenario(body)


def test_a_start_asked_while_suspending_resumes_it_afterwards() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "suspend")
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert host.world.asked["vmm.resume"] == 1
        assert host.world.running(M)

    scenario(body)


def test_it_stays_suspended_over_agents_and_hosts_and_then_runs_on() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        await agent.kill()
        host.machinery.restart_host()
        again = await host.agent()
        assert again.driver(M).snapshot.shown == "suspended"
        assert again.books.free_memory_mb == 4096 - agents.takes_mb(host, 256)
        assert isinstance(await again.wait(M, "suspended"), waits.Reached)
        await again.ask(M, "start")
        assert await again.rest(M) == "started"
        assert host.world.asked[f"vmm.spawn:{M}"] == 1

    scenario(body)


def test_putting_the_host_down_leaves_it_suspended() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        await agent.kill()
        aside = agents.Agent(host, None)
        await parking.park(aside.host, aside.journal)
        assert host.world.remains() == SUSPENDED
        again = await host.agent()
        assert again.driver(M).snapshot.shown == "suspended"

    scenario(body)


def test_a_suspend_that_the_host_going_down_cut_short_starts_the_machine_again() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "no"}})
        await agent.rest(M)
        await agent.ask(M, "suspend")
        await agent.kill()
        aside = agents.Agent(host, None)
        await parking.park(aside.host, aside.journal)
        again = await host.agent()
        assert await again.rest(M) == "started"
        assert host.world.running(M)

    scenario(body)


def test_a_resume_that_the_host_going_down_cut_short_comes_back_with_its_disk() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        await agent.ask(M, "start")
        while M not in host.world.vms:
            await agent.driver(M).next_change()
        await agent.kill()
        aside = agents.Agent(host, None)
        await parking.park(aside.host, aside.journal)
        assert host.world.remains()["vms"] == []
        again = await host.agent()
        assert await again.rest(M) == "started"
        assert host.world.vms[M].plan.keep_scratch

    scenario(body)


def test_a_shim_found_beside_a_suspended_machine_is_cleared_and_the_disk_stays() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await suspended(agent)
        plan = host.world.saved[M].plan
        await agent.kill()
        saved = host.world.saved.pop(M)
        host.world.taps.add(plan.slot)
        host.machinery.spawn(plan)
        host.world.saved[M] = replace(saved, disk=host.world.disks[M])
        again = await host.agent()
        assert await again.rest(M) == "suspended"
        assert host.world.remains() == SUSPENDED

    scenario(body)


def test_a_machine_that_is_suspended_when_idle_is_prepared_for_it() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        service = {"protocol": "tcp", "internal_port": 80, "autostop": "suspend"}
        await agent.create(M, config={"services": [service]})
        await agent.rest(M)
        assert host.world.vms[M].plan.suspendable

    scenario(body)
