"""A user name and password for a private registry: used for a pull, and kept nowhere."""

from godwit.base import errors
from godwit.images import auth
from godwit.testing import agents
from tests.unit.agent.machines.driving import M, scenario

GONE = errors.Failure("manifest_unknown", "the registry shows no such image")
LIMITED = errors.Failure("rate_limited", "the registry refuses more requests for now")
LOGIN = auth.Credentials("bot", "geheim").pull_token()


def stored(host: agents.FakeHost) -> str:
    """Return everything in the agent's database, as text."""
    return "\n".join(host.connection.iterdump())


def test_a_login_is_used_for_the_pull_and_not_stored() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.tokens[M] = LOGIN
        host.world.faults["images.ensure"].append(GONE)
        driver = await agent.create(M)
        assert await agent.rest(M) == "started"
        assert host.world.pulled_with == [None, LOGIN]
        assert driver.machine.pull_token is None
        assert LOGIN not in stored(host)
        assert M in stored(host)

    scenario(body)


def test_a_login_for_a_new_version_is_not_stored_either() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.rest(M)
        host.world.tokens[M] = LOGIN
        host.world.faults["images.ensure"].append(GONE)
        await agent.ask(M, "update", update=agents.update(M, "01NEXT"))
        assert await agent.rest(M) == "started"
        assert LOGIN in host.world.pulled_with
        assert LOGIN not in stored(host)

    scenario(body)


def test_an_image_that_went_is_pulled_again_with_what_control_gives_then() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.tokens[M] = LOGIN
        host.world.faults["images.ensure"].append(GONE)
        await agent.create(M)
        await agent.rest(M)
        await agent.ask(M, "stop")
        await agent.rest(M)
        changed = auth.Credentials("bot", "neu").pull_token()
        host.world.tokens[M] = changed
        host.world.faults["images.ensure"].append(GONE)
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert host.world.pulled_with[-1] == changed

    scenario(body)


def test_a_registry_that_limits_strangers_is_asked_with_a_login() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.tokens[M] = LOGIN
        host.world.faults["images.ensure"].append(LIMITED)
        await agent.create(M)
        assert await agent.rest(M) == "started"
        assert host.world.pulled_with == [None, LOGIN]

    scenario(body)
