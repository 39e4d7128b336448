"""What a host may ask of control, and for which machines."""

import base64

import pytest

from godwit.base import errors
from godwit.control import machine_actions, machines, members, registry_tokens
from godwit.control.host_requests import HostRequests
from godwit.control.publisher import Publisher
from godwit.control.records import AuditRow, Host
from godwit.wire import guest_api
from tests.unit.control.conftest import Town


async def machine_of(town: Town, image: str = "nginx") -> str:
    wanted = machines.NewMachine({"image": image})
    made = await machines.create(town.world.ctx, town.acme, "shop", wanted)
    return made.view.machine_id


async def ask(town: Town, host_id: str, **body: object) -> str | None:
    answer = await HostRequests(town.world.ctx).handlers()["pull_token"](host_id, body)
    token = answer["token"]
    return None if token is None else str(token)


async def refusal(town: Town, host_id: str, **body: object) -> str:
    with pytest.raises(errors.Failure) as caught:
        await ask(town, host_id, **body)
    return caught.value.code


async def test_a_host_gets_a_fresh_token_for_an_image_of_its_machine(town: Town) -> None:
    reference = f"{town.world.ctx.options.registry}/shop:v1"
    machine_id = await machine_of(town, reference)
    token = await ask(town, town.world.host.host_id, machine_id=machine_id, reference=reference)
    key = town.world.ctx.signer.key.public_key()
    (access,) = registry_tokens.claims(token or "", key)["access"]
    assert access == {"type": "repository", "name": "shop", "actions": ["pull"]}


async def test_a_public_image_needs_none(town: Town) -> None:
    machine_id = await machine_of(town)
    host_id = town.world.host.host_id
    assert await ask(town, host_id, machine_id=machine_id, reference="nginx") is None


async def test_another_host_or_another_organizations_image_gets_nothing(town: Town) -> None:
    await town.world.app("secret", "rival")
    machine_id, host_id = await machine_of(town), town.world.host.host_id
    own = f"{town.world.ctx.options.registry}/shop:v1"
    theirs = f"{town.world.ctx.options.registry}/secret:v1"
    assert await refusal(town, "ffffffff", machine_id=machine_id, reference=own) == "not_found"
    assert await refusal(town, host_id, machine_id="0" * 14, reference=own) == "not_found"
    assert await refusal(town, host_id, machine_id="../x", reference=own) == "not_found"
    assert await refusal(town, host_id, machine_id=machine_id, reference=theirs) == (
        "permission_denied"
    )
    for wrong in ({}, {"machine_id": machine_id}, {"machine_id": 5, "reference": own}):
        assert await refusal(town, host_id, **wrong) == "invalid_argument"


KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(4)]


async def tell(town: Town, host_id: str, **body: object) -> None:
    await HostRequests(town.world.ctx).handlers()["mesh_keys"](host_id, body)


async def add_host(town: Town, host_id: str, number: int, key: str) -> None:
    async with town.world.ctx.store.write() as rows:
        await members.put(rows, Host(host_id, number, "U", "lcl", "0000", 0, mesh_key=key))


async def known(town: Town, host_id: str) -> tuple[str, str]:
    async with town.world.ctx.store.read() as rows:
        host = await rows.hosts.get(host_id)
    assert host is not None
    return host.mesh_key, host.mesh_next_key


async def test_a_host_changes_its_own_keys_in_the_mesh(town: Town) -> None:
    await add_host(town, "aaaaaaaa", 70_000, KEYS[0])
    await tell(town, "aaaaaaaa", key=KEYS[0], next_key=KEYS[1])
    assert await known(town, "aaaaaaaa") == (KEYS[0], KEYS[1])
    # What a server says of itself when it starts is older than what it told since.
    await add_host(town, "aaaaaaaa", 70_000, KEYS[0])
    assert await known(town, "aaaaaaaa") == (KEYS[0], KEYS[1])
    await tell(town, "aaaaaaaa", key=KEYS[1], next_key="")
    assert await known(town, "aaaaaaaa") == (KEYS[1], "")


async def test_a_hosts_keys_are_told_to_everybody_once(town: Town) -> None:
    await add_host(town, "aaaaaaaa", 70_000, KEYS[0])
    await tell(town, "aaaaaaaa", key=KEYS[0], next_key=KEYS[1])
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await publisher.publish_once()
    fact = town.world.stream.newest["facts.lcl.member.control.aaaaaaaa"]
    assert (fact.mesh_key, fact.mesh_next_key) == (KEYS[0], KEYS[1])
    await tell(town, "aaaaaaaa", key=KEYS[0], next_key=KEYS[1])
    await publisher.publish_once()
    assert town.world.stream.newest["facts.lcl.member.control.aaaaaaaa"] == fact


async def test_keys_that_are_none_or_anothers_are_refused(town: Town) -> None:
    await add_host(town, "aaaaaaaa", 70_000, KEYS[0])
    await add_host(town, "bbbbbbbb", 70_001, KEYS[1])
    for host_id, body, code in (
        ("aaaaaaaa", {"key": KEYS[1], "next_key": ""}, "already_exists"),
        ("aaaaaaaa", {"key": KEYS[0], "next_key": KEYS[1]}, "already_exists"),
        ("aaaaaaaa", {"key": "rubbish", "next_key": ""}, "invalid_argument"),
        ("aaaaaaaa", {"key": "", "next_key": ""}, "invalid_argument"),
        ("aaaaaaaa", {"key": KEYS[0]}, "invalid_argument"),
        ("cccccccc", {"key": KEYS[2], "next_key": ""}, "not_found"),
    ):
        with pytest.raises(errors.Failure) as caught:
            await tell(town, host_id, **body)
        assert caught.value.code == code
    assert await known(town, "aaaaaaaa") == (KEYS[0], "")


async def tell_endpoints(town: Town, host_id: str, told: object) -> None:
    await HostRequests(town.world.ctx).handlers()["endpoints"](host_id, {"endpoints": told})


async def test_a_host_that_moved_is_looked_for_elsewhere_by_everybody(town: Town) -> None:
    await add_host(town, "aaaaaaaa", 70_000, KEYS[0])
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    name = "facts.lcl.member.control.aaaaaaaa"
    await tell_endpoints(town, "aaaaaaaa", ["198.51.100.7:51820", "[2001:db8::7]:51820"])
    await publisher.publish_once()
    fact = town.world.stream.newest[name]
    assert fact.endpoints == ("198.51.100.7:51820", "[2001:db8::7]:51820")
    # Said again it is nothing new: no host is troubled.
    await tell_endpoints(town, "aaaaaaaa", list(fact.endpoints))
    await publisher.publish_once()
    assert town.world.stream.newest[name] == fact
    async with town.world.ctx.store.read() as rows:
        found = await rows.audit.page(None, before="", limit=100)
    (row,) = [row for row in found if row.action == "hosts.endpoints"]
    assert (row.principal, row.target) == ("component:host-aaaaaaaa", "aaaaaaaa")
    assert row.detail == {"endpoints": list(fact.endpoints)}


async def test_endpoints_that_are_none_are_refused(town: Town) -> None:
    await add_host(town, "aaaaaaaa", 70_000, KEYS[0])
    for told in (None, "198.51.100.7:51820", [], [7], ["198.51.100.7"], ["a:0"], ["a:1"] * 5):
        with pytest.raises(errors.Failure) as caught:
            await tell_endpoints(town, "aaaaaaaa", told)
        assert caught.value.code == "invalid_argument"
    with pytest.raises(errors.Failure) as caught:
        await tell_endpoints(town, "cccccccc", ["198.51.100.7:51820"])
    assert caught.value.code == "not_found"


async def test_a_destroyed_machine_pulls_nothing(town: Town) -> None:
    machine_id = await machine_of(town)
    async with town.world.store.write() as rows:
        await rows.placements.mark_destroyed(machine_id, 5)
    body = {"machine_id": machine_id, "reference": "nginx"}
    assert await refusal(town, town.world.host.host_id, **body) == "not_found"


async def test_a_host_tells_its_release(town: Town) -> None:
    tell = HostRequests(town.world.ctx).handlers()["release"]
    assert await tell("a1b2c3d4", {"release": "0.4.0"}) == {}
    async with town.world.store.read() as rows:
        host = await rows.hosts.get("a1b2c3d4")
    assert host is not None
    assert host.release == "0.4.0"
    for wrong in ({}, {"release": ""}, {"release": 4}, {"release": "x" * 65}):
        with pytest.raises(errors.Failure, match="in a few characters"):
            await tell("a1b2c3d4", wrong)


async def audited(town: Town) -> list[AuditRow]:
    """Return what machines did to themselves, by the audit."""
    async with town.world.ctx.store.read() as rows:
        found = await rows.audit.page(None, before="", limit=100)
    return [row for row in found if row.principal.startswith("machine:")]


async def hear(town: Town, host_id: str, machine_id: str, deed_id: str = "0" * 26) -> None:
    deed = guest_api.Deed(
        id=deed_id,
        machine_id=machine_id,
        verb="stop",
        at_ms=1_790_000_000_000,
        detail={"signal": "SIGTERM"},
    )
    handler = HostRequests(town.world.ctx).handlers()[guest_api.DEED]
    assert await handler(host_id, deed.model_dump(mode="json")) == {}


async def test_what_a_machine_did_to_itself_is_one_row_however_often_it_is_told(
    town: Town,
) -> None:
    machine_id, host_id = await machine_of(town), town.world.host.host_id
    for _ in range(2):
        await hear(town, host_id, machine_id)
    (row,) = await audited(town)
    assert (row.id, row.at_ms) == (f"aud_{'0' * 26}", 1_790_000_000_000)
    assert (row.principal, row.action) == (f"machine:{machine_id}", "machines.stop")
    assert (row.org_id, row.target) == (town.shop.org_id, machine_id)
    assert row.detail == {"app": "shop", "signal": "SIGTERM"}


async def test_it_is_heard_of_a_machine_that_is_gone_meanwhile(town: Town) -> None:
    machine_id, host_id = await machine_of(town), town.world.host.host_id
    ctx = town.world.ctx
    await machine_actions.destroy(ctx, town.acme, "shop", machine_id, force=True)
    await hear(town, host_id, machine_id)
    assert len(await audited(town)) == 1


async def test_a_host_tells_of_no_machine_but_its_own(town: Town) -> None:
    machine_id, host_id = await machine_of(town), town.world.host.host_id
    await hear(town, "ffffffff", machine_id)
    await hear(town, host_id, "0" * 14)
    assert await audited(town) == []
