"""Servers join: once for each token, with keys of their own, and nobody else's."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.control import joining as service
from godwit.control import members
from godwit.control.publisher import Publisher
from godwit.host import membership
from godwit.testing.control import OPERATOR, World
from godwit.wire import joining
from godwit.wire.joining import Invitation, StandingRequest
from tests.unit.control.conftest import Town
from tests.unit.control.joining_lab import ENDPOINT, Server, open_to_servers, token


@pytest.fixture
def world(town: Town) -> World:
    return open_to_servers(town.world)


async def audited(world: World, action: str) -> list[dict]:
    async with world.store.read() as rows:
        page = await rows.audit.page(None, before="", limit=50)
    return [{"target": row.target, **row.detail} for row in page if row.action == action]


async def test_a_server_joins_and_learns_who_it_is_and_who_the_others_are(world: World) -> None:
    server = Server()
    answer = await server.join(world, await token(world))
    assert (answer.region, answer.zone, answer.host_number) == ("fra", "0000", 65_538)
    assert {one.host_id for one in answer.members} == {"a1b2c3d4", answer.host_id}
    me = next(one for one in answer.members if one.host_id == answer.host_id)
    assert me.keys == server.request(world, await token(world)).keys
    assert (me.mesh_key, me.endpoints) == (server.mesh_key, (ENDPOINT,))
    assert me.services == {"bus": "[fdaa::1:2:0:0:1]:4222"}
    assert (await audited(world, "hosts.join"))[0]["target"] == answer.host_id


async def test_everybody_is_told_of_a_server_that_joined(world: World) -> None:
    answer = await Server().join(world, await token(world))
    await Publisher(world.ctx, "lcl", world.stream).publish_once()
    assert f"facts.lcl.member.control.{answer.host_id}" in world.stream.newest


async def test_an_answer_that_was_lost_is_given_again(world: World) -> None:
    server, text = Server(), await token(world, ttl_s=60)
    first = await server.join(world, text)
    world.clock.skew_ms += 120_000
    assert await server.join(world, text) == first


async def test_a_used_token_lets_nobody_else_in_and_that_shows(world: World) -> None:
    text = await token(world)
    answer = await Server().join(world, text)
    with pytest.raises(errors.Failure, match="another server has joined") as caught:
        await Server().join(world, text)
    assert f"godwit host remove {answer.host_id}" in caught.value.hint
    (refused,) = await audited(world, "hosts.join_refused")
    assert "another server" in refused["reason"]
    async with world.store.read() as rows:
        assert len(await rows.hosts.all()) == 2


async def test_numbers_are_never_given_out_again(world: World) -> None:
    first = await Server().join(world, await token(world))
    async with world.store.write() as rows:
        host = await rows.hosts.get(first.host_id)
        assert host is not None
        await members.set_state(rows, host, "removed")
    second = await Server().join(world, await token(world))
    assert second.host_number == first.host_number + 1
    assert first.host_id not in {one.host_id for one in second.members}


async def test_the_first_hosts_of_a_region_serve_its_bus_at_most_three(world: World) -> None:
    async def roles(**changes: object) -> tuple[str, ...]:
        return (await Server().join(world, await token(world), **changes)).roles

    assert await roles() == ("bus", "agent", "edge", "dns")
    assert await roles() == ("agent", "edge", "dns")
    assert "bus" in await roles(bus=True)
    assert "bus" in await roles(bus=True)
    assert "bus" not in await roles(bus=True)
    assert "bus" in await roles(region="ams")


async def test_bus_servers_of_a_region_share_a_secret_and_no_others_have_it(
    world: World,
) -> None:
    first = await Server().join(world, await token(world))
    plain = await Server().join(world, await token(world))
    second = await Server().join(world, await token(world), bus=True)
    elsewhere = await Server().join(world, await token(world), region="ams")
    assert first.bus_secret == second.bus_secret
    assert plain.bus_secret == ""
    assert elsewhere.bus_secret not in ("", first.bus_secret)


async def serve_bus(
    world: World, server: Server, host_id: str, text: str, **changes: Any
) -> joining.BusAnswer:
    """Ask to serve the bus with a token."""
    asked: dict[str, Any] = {
        "secret": Invitation.parse(text).secret,
        "host_id": host_id,
        "key": server.request(world, text).keys["catalog"],
        "port": 4222,
        "at_ms": world.clock.now_ms(),
    }
    seeds = [server.seeds["host"], server.seeds["catalog"]]
    request = joining.BusRequest.model_validate(asked | changes)
    return await service.serve_bus(world.ctx, joining.sign("bus", request, seeds))


async def test_a_member_comes_to_serve_its_regions_bus_by_a_token(world: World) -> None:
    first = await Server().join(world, await token(world))
    server = Server()
    plain = await server.join(world, await token(world))
    text = await token(world)
    for _ in range(2):
        answer = await serve_bus(world, server, plain.host_id, text)
        assert set(answer.roles) == {"bus", "agent", "edge", "dns"}
        assert answer.bus_secret == first.bus_secret
        me = next(one for one in answer.members if one.host_id == plain.host_id)
        assert me.services == {"bus": "[fdaa::1:3:0:0:1]:4222"}
        assert set(me.keys) == {"host", "edge", "dns", "catalog"}
    (row,) = await audited(world, "hosts.serve_bus")
    assert row["target"] == plain.host_id


async def test_who_comes_to_serve_a_bus_hears_who_was_removed(world: World) -> None:
    first = await Server().join(world, await token(world))
    server = Server()
    left = await server.join(world, await token(world))
    async with world.store.write() as rows:
        host = await rows.hosts.get(first.host_id)
        assert host is not None
        await members.set_state(rows, host, "removed")
    answer = await serve_bus(world, server, left.host_id, await token(world))
    states = {one.host_id: one.state for one in answer.members}
    assert states[first.host_id] == "removed"
    assert membership.bus_servers(answer.members, "fra") == ["[fdaa::1:3:0:0:1]:4222"]


async def test_who_may_not_serve_a_bus_is_told_why(world: World) -> None:
    server, other = Server(), Server()
    for _ in range(3):
        await Server().join(world, await token(world), bus=True)
    plain = await server.join(world, await token(world))
    text = await token(world, region="fra")
    with pytest.raises(errors.Failure, match="has 3 bus servers"):
        await serve_bus(world, server, plain.host_id, text)
    with pytest.raises(errors.Failure, match="no member"):
        await serve_bus(world, other, plain.host_id, text)
    with pytest.raises(errors.Failure, match="no member ffffffff"):
        await serve_bus(world, server, "ffffffff", text)
    with pytest.raises(errors.Failure, match="does not know this token"):
        await serve_bus(world, server, plain.host_id, text, secret="x")
    with pytest.raises(errors.Failure, match="is for the region ams"):
        await serve_bus(world, server, plain.host_id, await token(world, region="ams"))


async def test_a_key_of_the_catalog_counts_only_where_a_bus_is(world: World) -> None:
    await Server().join(world, await token(world))
    second = await Server().join(world, await token(world))
    me = next(one for one in second.members if one.host_id == second.host_id)
    assert set(me.keys) == {"host", "edge", "dns"}


@pytest.mark.parametrize(
    ("wanted", "changes", "after_s", "said"),
    [
        ({"ttl_s": 60}, {}, 61, "has expired"),
        ({"region": "ams"}, {}, 0, "is for the region ams, not fra"),
        ({}, {"region": "xyz"}, 0, "none that Godwit knows"),
        ({}, {"region": "Fra"}, 0, "three lower-case letters"),
        ({}, {"zone": "a"}, 0, "four hex digits"),
        ({}, {"endpoints": ("198.51.100.7",)}, 0, "no address:port"),
        ({}, {"endpoints": ("198.51.100.7:0",)}, 0, "no address:port"),
        ({}, {"address": "example.com"}, 0, "no IP address"),
        ({}, {"ports": {"ssh": 22}}, 0, "ports"),
        ({}, {"at_ms": 0}, 0, "s behind the cluster's"),
        ({}, {"at_ms": 2**50}, 0, "s ahead of the cluster's"),
        ({}, {"mesh_key": "AAAA"}, 0, "is not an X25519 key"),
        ({}, {"mesh_key": base64.b64encode(bytes(32)).decode()}, 0, "is not an X25519 key"),
    ],
)
async def test_what_cannot_join_is_told_why(
    world: World, wanted: dict, changes: dict, after_s: int, said: str
) -> None:
    text, server = await token(world, **wanted), Server()
    world.clock.skew_ms += after_s * 1_000
    with pytest.raises(errors.Failure, match=said):
        await server.join(world, text, **changes)
    async with world.store.read() as rows:
        assert len(await rows.hosts.all()) == 1


async def test_a_region_of_ones_own_is_one_that_the_token_names(world: World) -> None:
    answer = await Server().join(world, await token(world, region="xyz"), region="xyz")
    assert answer.region == "xyz"


async def test_an_unknown_token_and_one_taken_back_let_nobody_in(world: World) -> None:
    stranger = Invitation(address="x:1", fingerprint="", secret="wrong").text()
    with pytest.raises(errors.Failure, match="does not know this token"):
        await Server().join(world, stranger)
    text = await token(world)
    (made,) = await service.open_tokens(world.ctx, OPERATOR)
    await service.revoke_token(world.ctx, OPERATOR, made.id)
    with pytest.raises(errors.Failure, match="taken back"):
        await Server().join(world, text)
    assert await service.open_tokens(world.ctx, OPERATOR) == []


async def test_a_server_must_hold_every_key_it_comes_with(world: World) -> None:
    text, server = await token(world), Server()
    request = server.request(world, text)
    partly = joining.sign("join", request, [server.seeds["host"]])
    with pytest.raises(errors.Failure, match="each of the keys has to sign"):
        await service.join(world.ctx, partly)
    signed = server.sign(request)
    other = server.request(world, text, region="ams").model_dump_json()
    with pytest.raises(errors.Failure, match="signature"):
        await service.join(world.ctx, signed.model_copy(update={"body": other}))


async def test_keys_of_a_member_are_nobody_elses(world: World) -> None:
    known = Server()
    await known.join(world, await token(world))
    for copied in (
        Server(mesh_key=known.mesh_key),
        Server(sealing_key=known.sealing_key),
        Server(seeds=Server().seeds | {"edge": known.seeds["edge"]}),
    ):
        with pytest.raises(errors.Failure, match="has a key that this server came with"):
            await copied.join(world, await token(world))


async def test_a_member_does_not_join_twice_nor_a_removed_one_again(world: World) -> None:
    server = Server()
    answer = await server.join(world, await token(world))
    with pytest.raises(errors.Failure, match="has joined as host"):
        await server.join(world, await token(world))
    async with world.store.write() as rows:
        host = await rows.hosts.get(answer.host_id)
        assert host is not None
        await members.set_state(rows, host, "removed")
    with pytest.raises(errors.Failure, match="which was removed"):
        await server.join(world, await token(world))


async def test_only_the_operator_lets_servers_join(world: World, town: Town) -> None:
    for refused in (
        service.create_token(world.ctx, town.acme, service.NewJoinToken()),
        service.open_tokens(world.ctx, town.acme),
        service.revoke_token(world.ctx, town.acme, "jtk_1"),
    ):
        with pytest.raises(errors.Failure, match="operator"):
            await refused


async def test_without_an_endpoint_there_are_no_tokens(town: Town) -> None:
    with pytest.raises(errors.Failure, match="joining endpoint is off"):
        await service.create_token(town.world.ctx, OPERATOR, service.NewJoinToken())


async def test_only_a_digest_of_the_secret_is_kept(world: World) -> None:
    secret = Invitation.parse(await token(world)).secret
    (kept,) = await service.open_tokens(world.ctx, OPERATOR)
    assert secret not in repr(kept)
    assert kept.hash == Invitation(address="", fingerprint="", secret=secret).digest


async def test_a_host_learns_whether_it_still_belongs(world: World) -> None:
    server = Server()
    answer = await server.join(world, await token(world))
    asked = StandingRequest(host_id=answer.host_id, at_ms=world.clock.now_ms())
    signed = joining.sign("standing", asked, [server.seeds["host"]])
    told = await service.standing(world.ctx, signed)
    assert (told.state, len(told.members)) == ("active", 2)
    async with world.store.write() as rows:
        host = await rows.hosts.get(answer.host_id)
        assert host is not None
        await members.set_state(rows, host, "removed")
    told = await service.standing(world.ctx, signed)
    assert (told.state, told.members) == ("removed", ())
    stranger = joining.sign("standing", asked, [Server().seeds["host"]])
    with pytest.raises(errors.Failure, match="has that key"):
        await service.standing(world.ctx, stranger)
    with pytest.raises(errors.Failure, match="not a join"):
        await service.join(world.ctx, signed)


@given(st.text(max_size=200))
def test_what_is_no_token_is_refused_in_words(text: str) -> None:
    with pytest.raises(errors.Failure, match="no token to join with"):
        Invitation.parse(text)


@given(st.text(max_size=80), st.text(max_size=64), st.text(max_size=64))
def test_a_token_says_what_it_was_made_of(address: str, fingerprint: str, secret: str) -> None:
    made = Invitation(address=address, fingerprint=fingerprint, secret=secret)
    assert Invitation.parse(f" {made.text()}\n") == made


@given(st.text(max_size=70))
def test_what_is_no_nkey_is_refused_in_words(text: str) -> None:
    with pytest.raises(errors.Failure, match="not an nkey"):
        joining.public_key(text)
