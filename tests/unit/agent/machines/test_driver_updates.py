"""New versions of a machine: replaced as a whole, refused, or given up without a trace."""

import pytest

from godwit.agent.machines import lifecycle
from godwit.base import errors
from godwit.testing import agents
from godwit.testing.world import Boot
from tests.unit.agent.machines.driving import NO_IMAGE, NOTHING, M, scenario


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


@pytest.mark.parametrize(("request_", "wakes"), [("update", False), ("replace", True)])
def test_a_start_is_refused_while_a_version_is_replaced_and_a_wake_waits(
    request_: lifecycle.Request, *, wakes: bool
) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, request_, update=agents.update(M, "01NEW"))
        with pytest.raises(errors.Failure, match="getting replaced, refusing to start") as raised:
            await agent.ask(M, "start")
        assert raised.value.code == "failed_precondition"
        await agent.ask(M, "wake")
        assert agent.driver(M).snapshot.shown == ("starting" if wakes else "replacing")
        assert await agent.rest(M) == "started"
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


def test_an_update_that_grows_too_much_is_refused_and_changes_nothing() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        await agent.rest(M)
        update = agents.update(M, "01NEW", resources={"memory_mb": 9000})
        with pytest.raises(errors.Failure, match=f"needs {agents.takes_mb(host, 9000)} MB"):
            await agent.ask(M, "update", update=update)
        assert (driver.snapshot.shown, driver.snapshot.version) == ("started", f"01V{M}")

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


def test_while_a_version_is_replaced_the_larger_of_both_is_held() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, resources={"memory_mb": 1024})
        await agent.rest(M)
        update = agents.update(M, "01NEW", resources={"memory_mb": 512})
        await agent.ask(M, "update", update=update)
        assert host.world.running(M)
        assert agent.books.free_memory_mb == 4096 - agents.takes_mb(host, 1024)
        await agent.rest(M)
        assert agent.books.free_memory_mb == 4096 - agents.takes_mb(host, 512)

    scenario(body)
