"""Control on further hosts: who may, on which database, with what."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.base import errors
from godwit.control import replicas, secret_keys
from godwit.keyring import roots
from godwit.testing.control import OPERATOR, World
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


async def test_the_root_key_is_not_made_anew_behind_another_keyring(world: World) -> None:
    joining, _ = server()
    before = await world.ctx.keyring.roots()
    await joining.join(world, await token(world, control=True), control=True)
    async with world.store.write() as rows:
        first = next(one for one in await rows.hosts.all() if one.id == "a1b2c3d4")
        await rows.hosts.put(replace(first, roles=[*first.roles, *replicas.ROLES]))
    with pytest.raises(errors.Failure, match="while several hosts have a keyring"):
        await secret_keys.rotate_root(world.ctx, OPERATOR)
    assert await world.ctx.keyring.roots() == before
