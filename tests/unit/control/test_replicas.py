"""Control on further hosts: who may, on which database, with what."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.base import errors
from godwit.control import replicas, secret_keys
from godwit.keyring import roots, vault
from godwit.testing.control import OPERATOR, World
from godwit.testing.hosts import SimulatedHost
from godwit.wire import keyring
from godwit.wire.secrets import Owner
from tests.unit.control.conftest import Town
from tests.unit.control.joining_lab import Server, _seed, open_to_servers, token

URL = "postgresql://godwit:secret@db.internal/godwit"


def server() -> tuple[Server, X25519PrivateKey]:
    """Return a server that may run control, and its key."""
    private = X25519PrivateKey.generate()
    made = Server(sealing_key=base64.b64encode(private.public_key().public_bytes_raw()).decode())
    made.seeds["control"] = _seed()
    return made, private


@pytest.fixture
def world(town: Town, tmp_path: Path) -> World:
    """Return a platform in PostgreSQL, as far as control says so."""
    (tmp_path / "sealing.key").write_text("sealing")
    (tmp_path / "host.seed").write_text("its own")
    return open_to_servers(town.world).options(database=URL, keys=tmp_path)


async def test_a_host_is_given_what_control_needs_and_the_roots_for_itself_alone(
    world: World, tmp_path: Path
) -> None:
    joining, private = server()
    answer = await joining.join(world, await token(world, control=True), control=True)
    assert set(answer.roles) == {"bus", "control", "keyring", "agent", "edge", "dns"}
    assert answer.control is not None
    assert answer.control.database == URL
    assert answer.control.keys["sealing.key"] == "sealing"
    assert set(answer.control.keys) <= set(replicas.KEYS)
    roots.put(tmp_path / "keyring", answer.control.roots, private)
    told = roots.Roots.load(tmp_path / "keyring", world.clock).told()
    assert told == await world.ctx.keyring.roots()
    me = next(one for one in answer.members if one.host_id == answer.host_id)
    assert set(me.keys) == {"host", "edge", "dns", "catalog", "control"}
    for shown in (repr(answer), str(answer)):
        assert "secret" not in shown


async def test_others_are_given_nothing_of_it(world: World) -> None:
    plain = await Server().join(world, await token(world))
    assert plain.control is None
    joining, _ = server()
    without_a_word = await joining.join(world, await token(world, control=True))
    assert without_a_word.control is None
    assert "control" not in without_a_word.roles
    me = next(o for o in without_a_word.members if o.host_id == without_a_word.host_id)
    assert "control" not in me.keys


async def test_a_token_that_is_not_for_control_gives_no_control(world: World) -> None:
    joining, _ = server()
    with pytest.raises(errors.Failure, match="not for a server that runs control") as caught:
        await joining.join(world, await token(world), control=True)
    assert "godwit host token --control" in caught.value.hint


async def test_saying_so_makes_no_token_one_for_control(world: World) -> None:
    joining, _ = server()
    text = await token(world)
    asked = joining.request(world, text, control=True)
    forged = asked.model_copy(update={"secret": f"control-{asked.secret}"})
    with pytest.raises(errors.Failure, match="does not know this token"):
        await joining.send(world, forged)


async def test_on_sqlite_nobody_may_and_the_operator_is_told_what_to_do(world: World) -> None:
    joining, _ = server()
    text = await token(world, control=True)
    in_a_file = world.options(database="sqlite")
    with pytest.raises(errors.Failure, match="the platform's database is SQLite") as caught:
        await token(in_a_file, control=True)
    assert "godwit control move-database" in caught.value.hint
    with pytest.raises(errors.Failure, match="the platform's database is SQLite"):
        await joining.join(in_a_file, text, control=True)
    # The token was not used up by that.
    answer = await joining.join(world, text, control=True)
    assert answer.control is not None


@dataclass
class Second:
    """Another control host with a keyring of its own."""

    host: SimulatedHost
    keyring: vault.Vault


def carries(host: SimulatedHost, own: vault.Vault) -> None:
    """Have a simulated host's agent carry root keys to a keyring."""

    async def roots_of(_: dict[str, Any]) -> keyring.Roots:
        return await own.roots()

    async def take(body: dict[str, Any]) -> keyring.Roots:
        return await own.take_roots(keyring.TakeRoots.model_validate(body))

    host.beside = {"keyring.roots": roots_of, "keyring.take": take}


@pytest.fixture
async def second(world: World, tmp_path: Path) -> Second:
    """Let another host join that runs control; the first one has both roles, too."""
    server_there, private = server()
    answer = await server_there.join(world, await token(world, control=True), control=True)
    assert answer.control is not None
    roots.put(tmp_path / "second", answer.control.roots, private)
    there = vault.Vault(roots.Roots.load(tmp_path / "second", world.clock), private)
    host = SimulatedHost(answer.host_id, region="fra", stream=world.stream)
    world.hosts.by_id[host.host_id] = host
    carries(host, there)
    carries(world.host, vault.Vault(world.root_keys))
    async with world.store.write() as rows:
        first = next(one for one in await rows.hosts.all() if one.id == "a1b2c3d4")
        await rows.hosts.put(replace(first, roles=[*first.roles, *replicas.ROLES]))
    return Second(host, there)


async def test_a_new_root_key_is_known_to_every_keyring_before_it_wraps(
    world: World, second: Second
) -> None:
    (old,) = (await second.keyring.roots()).ids
    found = await secret_keys.rotate_root(world.ctx, OPERATOR)
    assert await second.keyring.roots() == await world.ctx.keyring.roots()
    assert found.ids[0] == old != found.ids[-1]
    # What either wraps the other opens.
    for one, other in ((world.ctx.keyring, second.keyring), (second.keyring, world.ctx.keyring)):
        key = await one.new_key(keyring.NewKey(owner=Owner(org_id="o", app_id="a")))
        assert key.root_id == found.ids[-1]
        assert await other.rewrap(keyring.Rewrap(keys=(key,)))


async def test_while_a_keyring_is_away_nothing_is_made_anew(world: World, second: Second) -> None:
    (old,) = (await second.keyring.roots()).ids
    second.host.away = True
    with pytest.raises(errors.Failure, match="not every keyring can know it") as caught:
        await secret_keys.rotate_root(world.ctx, OPERATOR)
    assert second.host.host_id in caught.value.message
    assert (await world.ctx.keyring.roots()).newest == old
    # What was prepared for it is nothing's, and goes.
    world.clock.skew_ms += roots.RETIRED_AFTER_MS + 1_000
    second.host.away = False
    assert (await secret_keys.sweep(world.ctx)).ids == (old,)


async def test_the_former_root_key_goes_once_every_keyring_wraps_by_the_new_one(
    world: World, second: Second
) -> None:
    asked = second.host.beside["keyring.take"]
    taken: list[int] = []

    async def once(body: dict[str, Any]) -> Any:
        if taken:
            raise errors.Failure("unavailable", "nobody answers")
        taken.append(1)
        return await asked(body)

    second.host.beside["keyring.take"] = once
    found = await secret_keys.rotate_root(world.ctx, OPERATOR)
    old, new = found.ids
    # It knows the new one, but has not heard that it wraps.
    assert (await second.keyring.roots()).ids == (new, old)
    world.clock.skew_ms += roots.RETIRED_AFTER_MS + 1_000
    assert (await secret_keys.sweep(world.ctx)).ids == (old, new)
    second.host.beside["keyring.take"] = asked
    assert (await secret_keys.sweep(world.ctx)).ids == (new,)
    assert (await second.keyring.roots()).newest == new
