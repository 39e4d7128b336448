"""An image that has to be pulled again after its token's day is over."""

from godwit.base import errors
from godwit.testing import agents
from tests.unit.agent.machines.driving import M, scenario

GONE = errors.Failure("manifest_unknown", "the registry shows no such image")
AWAY = errors.Failure("unavailable", "the bus is away")


def test_a_token_that_opens_nothing_any_more_is_replaced_and_kept() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.tokens[M] = "fresh"
        host.world.faults["images.ensure"].append(GONE)
        driver = await agent.create(M, pull_token="old")
        assert await agent.rest(M) == "started"
        assert host.world.pulled_with == ["old", "fresh"]
        assert driver.machine.pull_token == "fresh"
        await agent.ask(M, "stop")
        await agent.rest(M)
        await agent.ask(M, "start")
        await agent.rest(M)
        assert host.world.pulled_with[2:] == ["fresh"]

    scenario(body)


def test_while_control_is_away_the_start_waits() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.tokens[M] = "fresh"
        host.world.faults["images.ensure"].extend([GONE, GONE, GONE])
        host.world.faults["control.pull_token"].extend([AWAY, AWAY])
        await agent.create(M, pull_token="old")
        assert await agent.rest(M) == "started"
        assert host.world.asked["control.pull_token"] == 3

    scenario(body)


def test_a_registry_that_is_away_is_no_reason_to_ask_control() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.faults["images.ensure"].append(AWAY)
        await agent.create(M, pull_token="good")
        assert await agent.rest(M) == "started"
        assert host.world.asked["control.pull_token"] == 0

    scenario(body)


def test_what_control_refuses_ends_as_the_registry_said() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.faults["images.ensure"].append(GONE)
        driver = await agent.create(M)
        assert await agent.rest(M) == "failed"
        assert "the registry shows no such image" in driver.machine.sentence

    scenario(body)


def test_a_new_versions_image_is_asked_for_the_same_way() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.world.tokens[M] = "fresh"
        host.world.faults["images.ensure"].append(GONE)
        update = agents.update(M, "01NEXT", pull_token="old")
        await agent.ask(M, "update", update=update)
        assert await agent.rest(M) == "started"
        assert host.world.pulled_with[1:3] == ["old", "fresh"]

    scenario(body)
