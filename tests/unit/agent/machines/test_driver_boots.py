"""Boots of a machine: those that fail, are tried again, or are broken off."""

import pytest

from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.testing import agents
from godwit.testing.world import Boot
from godwit.wire import guest
from tests.unit.agent.machines.driving import NO_IMAGE, NOTHING, M, scenario, types


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
        assert (
            f"needs {agents.takes_mb(host, 8192)} MB, 4096 MB of 4096 MB free"
            in refused.value.message
        )
        assert host.rows("SELECT * FROM machines") == []

    scenario(body)


def test_a_stopped_machine_gives_its_memory_to_others_and_may_not_get_it_back() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, resources={"memory_mb": 3000})
        await agent.rest(M)
        await agent.ask(M, "stop")
        await agent.rest(M)
        await agent.create("0000000000000b", resources={"memory_mb": 3000})
        with pytest.raises(errors.Failure, match=f"needs {agents.takes_mb(host, 3000)} MB"):
            await agent.ask(M, "start")
        assert agent.driver(M).snapshot.shown == "stopped"

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


def test_a_start_that_the_full_disk_holds_up_gives_its_room_back_when_nobody_waits_any_more() -> (
    None
):
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        import sqlite3

        await agent.create(M, skip_launch=True)
        await agent.rest(M)
        agent.database.trouble = sqlite3.OperationalError("database or disk is full")
        asking = agent.tasks.spawn(agent.ask(M, "start"), name="ask")
        await host.clock.sleep(30)
        assert "disk is full" in agent.driver(M).snapshot.sentence
        asking.cancel()
        await host.clock.sleep(30)
        assert agent.books.free_memory_mb == host.capacity.memory_mb
        assert agent.driver(M).snapshot.sentence == ""

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


def test_what_a_config_asks_of_its_vm_is_in_the_plan_of_every_boot() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        init = {"swap_size_mb": 512, "kernel_args": ["debug"]}
        more = {"guest": {"kernel_args": ["quiet"]}, "cache_drive": {"size_mb": 64}}
        await agent.create(M, config={"init": init, **more})
        for _ in range(2):
            assert await agent.rest(M) == "started"
            plan = host.world.vms[M].plan
            assert (plan.swap_bytes, plan.kernel_arguments) == (512 << 20, ("quiet", "debug"))
            assert plan.cache_bytes == 64 << 20
            assert plan.hardware.disks == ("swap", "cache")
            assert plan.run_spec.mounts == (guest.CACHE,)
            await agent.ask(M, "restart")
        await agent.rest(M)

    scenario(body)
