"""How long what a machine writes to its root lasts, on a fake host (spec/machines.md §5.4)."""

import pytest

from godwit.testing import agents
from tests.unit.agent.machines.test_driver import NOTHING, M, scenario

NEVER = {"rootfs": {"persist": "never"}}
RESTART = {"rootfs": {"persist": "restart"}}
ALWAYS = {"guest": {"persist_rootfs": "always"}}


async def started(agent: agents.Agent, host: agents.FakeHost) -> int:
    """Return which root the started machine has."""
    assert await agent.rest(M) == "started"
    plan = host.world.vms[M].plan
    assert plan.run_spec.root.lasting == plan.lasting_root == plan.hardware.lasting_root
    return host.world.roots[M]


@pytest.mark.parametrize(("config", "lasts"), [({}, False), (NEVER, False)])
def test_a_root_is_fresh_at_every_start_unless_asked(config: dict, lasts: bool) -> None:
    _lives(config, lasts=lasts)


@pytest.mark.parametrize("config", [RESTART, ALWAYS])
def test_a_root_that_lasts_is_there_after_stop_restart_and_crash(config: dict) -> None:
    _lives(config, lasts=True)


def _lives(config: dict, *, lasts: bool) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config={"restart": {"policy": "always"}, **config})
        first = await started(agent, host)
        await agent.ask(M, "restart")
        assert (await started(agent, host) == first) == lasts
        second = host.world.roots[M]
        await agent.ask(M, "stop")
        assert await agent.rest(M) == "stopped"
        assert (M in host.world.roots) == lasts
        await agent.ask(M, "start")
        third = await started(agent, host)
        assert (third == second) == lasts
        host.machinery.guest_exits(host.world.vms[M], 1)
        assert await agent.reach(M, "restarting")
        assert (await started(agent, host) == third) == lasts
        await agent.ask(M, "kill")
        await agent.rest(M)
        assert host.world.remains() == NOTHING
        assert host.world.roots == {}

    scenario(body)


@pytest.mark.parametrize("at_rest", [False, True])
@pytest.mark.parametrize(
    ("present", "coming", "lasts"),
    [
        (ALWAYS, ALWAYS, True),
        (RESTART, RESTART, False),
        (RESTART, ALWAYS, False),
        (ALWAYS, RESTART, False),
        (NEVER, ALWAYS, False),
        (ALWAYS, {}, False),
    ],
)
def test_a_root_outlasts_an_update_if_both_versions_say_always(
    present: dict, coming: dict, lasts: bool, at_rest: bool
) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config=present)
        first = await started(agent, host)
        if at_rest:
            await agent.ask(M, "stop")
            await agent.rest(M)
        update = agents.update(M, "01NEW", config=coming)
        await agent.ask(M, "update", update=update)
        await agent.rest(M)
        if at_rest and agent.driver(M).machine.state == "stopped":
            await agent.ask(M, "start")
        assert (await started(agent, host) == first) == lasts

    scenario(body)


def test_a_suspended_machine_that_is_stopped_loses_its_memory_and_keeps_its_root() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, config=RESTART)
        first = await started(agent, host)
        await agent.ask(M, "suspend")
        assert await agent.rest(M) == "suspended"
        await agent.ask(M, "stop")
        assert await agent.rest(M) == "stopped"
        assert host.world.saved == {}
        await agent.ask(M, "start")
        assert await started(agent, host) == first

    scenario(body)
