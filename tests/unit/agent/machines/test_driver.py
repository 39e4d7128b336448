"""One machine's life on a fake host: what users see, what is left, what is written down."""

import pytest

from godwit.base import errors
from godwit.testing import agents, clock
from godwit.testing.world import Boot
from tests.unit.agent.machines.driving import NOTHING, M, events, scenario, types


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
            ("launch", "created"),
            ("launch", "stopped"),
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


def test_cordon_and_its_end_are_told_once_each() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await agent.rest(M)
        for cordoned in (True, True, False, False):
            await driver.set_cordoned(cordoned=cordoned)
        assert [(event["type"], event["status"]) for event in events(host)][2:] == [
            ("cordon", "started"),
            ("uncordon", "started"),
        ]
        assert driver.snapshot.events[0].type == "uncordon"

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


def test_a_machine_whose_shim_answers_nobody_can_be_destroyed_by_force() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.world.vms[M].deaf = True
        before = host.clock.monotonic()
        await agent.ask(M, "kill")
        assert await agent.rest(M) == "destroyed"
        assert host.clock.monotonic() - before < 120
        assert host.world.remains() == NOTHING

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
