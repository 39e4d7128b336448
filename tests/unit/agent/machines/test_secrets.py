"""A machine's secrets on its host: what a start finds, what it asks for, what is kept."""

import asyncio
import contextlib
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.agent.machines import secrets, waits
from godwit.base import errors
from godwit.testing import agents, clock
from godwit.testing.world import Hands, Killed
from godwit.wire import guest
from godwit.wire import secrets as sealing
from godwit.wire.secrets import HostSecrets, Owner
from tests.unit.agent.machines.driving import M, scenario

KEY = b"k" * 32
OWNER = Owner(org_id="org_a", app_id="app_a")
HIGH = b"geheim " + bytes(range(1, 256))
AWAY = errors.Failure("unavailable", "the bus is away")


class Sealing(Protocol):
    """Whatever opens with a host's key."""

    @property
    def sealing(self) -> X25519PrivateKey: ...


def sealed(
    host: Sealing,
    version: int = 1,
    *,
    key: X25519PrivateKey | None = None,
    owner: Owner = OWNER,
    **values: bytes,
) -> HostSecrets:
    """Return an app's secrets, sealed for a host or for another key than its own."""
    public = sealing.to_text((key or host.sealing).public_key().public_bytes_raw())
    return HostSecrets(
        owner=owner,
        version=version,
        key=sealing.seal_for_host(KEY, owner, "key_1", public),
        values=tuple(
            sealing.seal_value(KEY, owner, "key_1", (name, version, value))
            for name, value in values.items()
        ),
    )


def process(host: agents.FakeHost) -> dict[str, bytes]:
    """Return the environment that the machine's process was last started with."""
    told = host.world.vms[M].plan.run_spec.process
    found = {name: value.encode() for name, value in told.env.items()}
    return found | {name: sealing.to_bytes(value) for name, value in told.env_base64.items()}


def stored(host: agents.FakeHost) -> str:
    """Return everything in the agent's database, as text."""
    return "\n".join(host.connection.iterdump())


async def create(host: agents.FakeHost, agent: agents.Agent, **values: bytes) -> None:
    """Have a machine made with secrets at version 1."""
    await agent.create(M, secrets=sealed(host, **values), secrets_version=1)
    assert await agent.rest(M) == "started"


async def again(agent: agents.Agent) -> str:
    """Stop the machine and start it; return how it ended."""
    await agent.ask(M, "stop")
    await agent.rest(M)
    await agent.ask(M, "start")
    return await agent.rest(M)


def test_a_process_has_every_byte_and_the_database_none() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"geheim", HIGH=HIGH)
        assert process(host).items() >= {"A": b"geheim", "HIGH": HIGH}.items()
        assert host.world.asked["control.secrets"] == 0
        for plain in (b"geheim", HIGH):
            assert plain.decode(errors="replace") not in stored(host)
            assert sealing.to_text(plain)[:-4] not in stored(host)

    scenario(body)


def test_secrets_go_before_the_config_and_the_platform_before_them() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        given = sealed(host, A=b"secret", FLY_REGION=b"nowhere")
        config = {"env": {"A": "config", "B": "config"}}
        await agent.create(M, secrets=given, secrets_version=1, config=config)
        await agent.rest(M)
        expected = {"A": b"secret", "B": b"config", "FLY_REGION": b"lcl"}
        assert process(host).items() >= expected.items()

    scenario(body)


def test_a_file_is_written_from_a_secret() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        config = {"files": [{"guest_path": "/key", "secret_name": "KEY"}]}
        await agent.create(M, secrets=sealed(host, KEY=b"aAA="), secrets_version=1, config=config)
        assert await agent.rest(M) == "started"
        (file,) = host.world.vms[M].plan.run_spec.files
        assert (file.path, file.content_base64) == ("/key", "aAA=")

    scenario(body)


def test_a_file_of_a_secret_that_is_not_base64_fails_without_quoting_it() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        config = {"files": [{"guest_path": "/key", "secret_name": "KEY"}]}
        given = sealed(host, KEY=b"geheim!")
        driver = await agent.create(M, secrets=given, secrets_version=1, config=config)
        assert await agent.rest(M) == "failed"
        assert "the secret KEY is not base64" in driver.machine.sentence
        assert "geheim" not in stored(host) + repr(host.world.log)

    scenario(body)


def test_the_next_agent_starts_it_again_and_asks_nobody() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1")
        await agent.kill()
        later = await host.agent()
        assert await again(later) == "started"
        assert process(host)["A"] == b"1"
        assert host.world.asked["control.secrets"] == 0

    scenario(body)


def test_a_new_version_has_the_new_ones_and_the_old_are_forgotten() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1", GONE=b"1")
        newer = sealed(host, 2, A=b"2")
        await agent.host.secrets.keep(agent.driver(M).machine, "01NEXT", newer)
        assert await again(agent) == "started"
        assert process(host)["A"] == b"1", "a restart keeps those of its version"
        wanted = agents.update(M, "01NEXT", secrets_version=2)
        await agent.ask(M, "update", update=wanted)
        assert await agent.rest(M) == "started"
        assert process(host)["A"] == b"2"
        assert "GONE" not in process(host)
        kept = host.rows("SELECT instance_id, version FROM secrets")
        assert kept == [{"instance_id": "01NEXT", "version": 2}]

    scenario(body)


def test_an_update_that_takes_the_last_secret_away_leaves_none() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1")
        await agent.host.secrets.keep(agent.driver(M).machine, "01NEXT", sealed(host, 2))
        await agent.ask(M, "update", update=agents.update(M, "01NEXT", secrets_version=2))
        assert await agent.rest(M) == "started"
        assert process(host)["A"] == b"image"

    scenario(body)


def test_a_resume_opens_none() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"geheim")
        await agent.ask(M, "suspend")
        assert await agent.rest(M) == "suspended"
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert host.world.asked["vmm.resume"] == 1
        assert process(host)["A"] == b"image"

    scenario(body)


def test_a_destroyed_machines_are_gone() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1")
        await agent.ask(M, "kill")
        await agent.driver(M).wait(waits.Wanted(("destroyed",)))
        assert host.rows("SELECT * FROM secrets") == []

    scenario(body)


@pytest.mark.parametrize("why", ["none", "older", "another key"])
def test_what_does_not_do_is_replaced_by_what_control_gives(why: str) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        offered: dict[str, Any] = {
            "none": {"secrets_version": 1},
            "older": {
                "secrets": sealed(host, A=b"old"),
                "secrets_version": 1,
                "min_secrets_version": 2,
            },
            "another key": {
                "secrets": sealed(host, key=X25519PrivateKey.generate(), A=b"old"),
                "secrets_version": 1,
            },
        }[why]
        host.world.secrets[M] = sealed(host, 3, A=b"new")
        driver = await agent.create(M, **offered)
        assert await agent.rest(M) == "started"
        assert process(host)["A"] == b"new"
        assert driver.machine.secrets_version == 3
        assert host.world.asked["control.secrets"] == 1
        assert await again(agent) == "started"
        assert host.world.asked["control.secrets"] == 1, "they are kept"

    scenario(body)


def test_while_control_is_away_the_start_waits() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.secrets[M] = sealed(host, A=b"1")
        host.world.faults["control.secrets"].extend([AWAY, AWAY])
        await agent.create(M, secrets_version=1)
        assert await agent.rest(M) == "started"
        assert host.world.asked["control.secrets"] == 3
        assert process(host)["A"] == b"1"

    scenario(body)


@pytest.mark.parametrize("gives", [2, 3])
def test_a_start_that_wants_newer_ones_gets_the_newest(gives: int) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1")
        await agent.ask(M, "stop")
        await agent.rest(M)
        host.world.secrets[M] = sealed(host, gives, A=b"2")
        await agent.ask(M, "start", min_secrets_version=2)
        assert await agent.rest(M) == "started"
        assert process(host)["A"] == b"2"
        assert agent.driver(M).machine.secrets_version == gives
        # What it has now it keeps.
        assert await again(agent) == "started"
        assert process(host)["A"] == b"2"
        assert host.world.asked["control.secrets"] == 1

    scenario(body)


def test_a_start_whose_newer_secrets_are_not_to_be_had_fails_and_spoils_no_later_one() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1")
        await agent.ask(M, "stop")
        await agent.rest(M)
        host.world.secrets[M] = sealed(host, 1, A=b"1")
        await agent.ask(M, "start", min_secrets_version=2)
        assert await agent.rest(M) == "failed"
        assert "control has no newer ones" in agent.driver(M).machine.sentence
        await agent.ask(M, "start")
        assert await agent.rest(M) == "started"
        assert process(host)["A"] == b"1"

    scenario(body)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("nothing", "its app has none any more"),
        ("refusal", "control gives no others: no such machine"),
        ("older", "control has no newer ones"),
        ("another key", "control has no newer ones"),
    ],
)
def test_a_machine_whose_secrets_are_not_to_be_had_fails_and_says_so(
    gives: str, said: str
) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        if gives == "refusal":
            missing = errors.Failure("not_found", "no such machine")
            host.world.faults["control.secrets"].append(missing)
        elif gives == "older":
            host.world.secrets[M] = sealed(host, 1, A=b"1")
        elif gives == "another key":
            host.world.secrets[M] = sealed(host, 2, key=X25519PrivateKey.generate())
        driver = await agent.create(M, secrets_version=2, min_secrets_version=2)
        assert await agent.rest(M) == "failed"
        assert said in driver.machine.sentence
        assert host.world.vms == {}

    scenario(body)


def test_a_command_sees_what_the_process_sees_and_opens_it_anew() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await create(host, agent, A=b"1", HIGH=HIGH)
        machine = agent.driver(M).machine
        assert await agent.host.secrets.opened(machine) == {"A": b"1", "HIGH": HIGH}
        other = secrets.Secrets(agent.database, X25519PrivateKey.generate())
        with pytest.raises(errors.Failure, match="does not open"):
            await other.opened(machine)
        elsewhere = machine.model_copy(update={"instance_id": "01OTHER"})
        with pytest.raises(errors.Failure, match="not on this host"):
            await agent.host.secrets.opened(elsewhere)

    scenario(body)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("none", "did not come"),
        ("app", "not the machine's"),
        ("older", "not the machine's"),
        ("key", "does not open"),
        ("no key here", "no key to open"),
    ],
)
def test_an_offer_whose_secrets_would_not_open_is_refused(wrong: str, said: str) -> None:
    host = agents.FakeHost()
    came: HostSecrets | None = sealed(host, 2, A=b"1")
    if wrong == "none":
        came = None
    elif wrong == "app":
        came = sealed(host, 2, owner=Owner(org_id="org_a", app_id="app_b"))
    elif wrong == "older":
        came = sealed(host, 1)
    elif wrong == "key":
        came = sealed(host, 2, key=X25519PrivateKey.generate())
    database = agents.InlineDatabase(host.connection, Hands(host.world))
    kept = secrets.Secrets(database, None if wrong == "no key here" else host.sealing)
    with pytest.raises(errors.Failure, match=said) as refused:
        kept.check(came, 2, "app_a")
    assert refused.value.code == "failed_precondition"
    kept.check(None, 0, "app_a")
    host.connection.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_agent_killed_at_any_write_loses_none_and_leaves_none_in_the_clear(when: str) -> None:
    async def act(host: agents.FakeHost, agent: agents.Agent) -> None:
        with contextlib.suppress(Killed):
            await create(host, agent, A=b"geheim")

    async def undisturbed() -> int:
        """Return how many writes there are to be killed at."""
        host = agents.FakeHost()
        agent = await host.agent()
        before = agent.database.writes
        await act(host, agent)
        await host.close()
        return agent.database.writes - before

    async def killed_at(number: int) -> None:
        host = agents.FakeHost()
        agent = await host.agent()
        agent.database.kill_at = (agent.database.writes + number, when)
        acting = asyncio.get_running_loop().create_task(act(host, agent))
        await agent.killed.wait()
        await agent.bury()
        acting.cancel()
        later = await host.agent()
        assert "geheim" not in stored(host)
        if host.rows("SELECT 1 FROM machines"):
            assert await later.rest(M) == "started", number
            assert process(host)["A"] == b"geheim"
        assert host.world.asked["control.secrets"] == 0
        assert "geheim" not in stored(host)
        await host.close()

    writes = clock.run(undisturbed())
    assert writes > 3
    for number in range(1, writes + 1):
        clock.run(killed_at(number))


def test_bytes_that_are_not_text_travel_beside_the_text() -> None:
    text, coded = guest.split_environment(
        {"A": "a", "B": b"\xff".decode(errors="surrogateescape")}
    )
    assert (text, coded) == ({"A": "a"}, {"B": "/w=="})
