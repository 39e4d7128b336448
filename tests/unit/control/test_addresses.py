"""Public addresses of apps: given once, told to edges, and free again."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import address_pools, addresses, apps, organizations, publisher
from godwit.control.addresses import NewAddress
from godwit.control.records import AddressAssignment
from godwit.testing.control import OPERATOR
from godwit.wire import facts
from tests.unit.control.conftest import Town


async def allocated(
    town: Town, kind: str, app: str = "shop", who: Principal | None = None
) -> AddressAssignment:
    return await addresses.allocate(town.world.ctx, who or town.acme, app, NewAddress(kind))


async def told(town: Town, app: str = "shop") -> facts.AppFact:
    """Return the newest fact in the outbox, which is the one a new edge is told."""
    async with town.world.store.read() as rows:
        pending = await rows.outbox.after(0, 1_000)
    newest = [row.fact for row in pending if row.fact.get("app") == app][-1]
    found = facts.AppFact.model_validate(newest)
    pages = [page async for page in publisher.everything(town.world.ctx)]
    assert found in [one for page in pages for one in page]
    return found


async def test_an_address_is_given_and_edges_are_told(town: Town) -> None:
    before = await told(town)
    given = await allocated(town, "v4")
    assert given.ip == "203.0.113.0"
    assert (await told(town)).addresses == ("203.0.113.0",)
    assert (await told(town)).revision > before.revision
    await addresses.release(town.world.ctx, town.acme, "shop", "203.0.113.0")
    assert (await told(town)).addresses == ()
    page = await organizations.audit_page(
        town.world.ctx, OPERATOR, org_slug="acme", before="", limit=2
    )
    assert [one.action for one in page] == ["addresses.release", "addresses.allocate"]


async def test_no_two_apps_have_the_same(town: Town) -> None:
    await town.world.app("inn", "rival")
    given = [(await allocated(town, "v4")).ip for _ in range(3)]
    given.append((await allocated(town, "v4", "inn", town.rival)).ip)
    assert given == [f"203.0.113.{number}" for number in range(4)]
    with pytest.raises(errors.Failure, match="every public v4 address") as caught:
        await allocated(town, "v4")
    assert caught.value.code == "insufficient_capacity"
    await addresses.release(town.world.ctx, town.acme, "shop", "203.0.113.1")
    assert (await allocated(town, "v4", "inn", town.rival)).ip == "203.0.113.1"


async def test_addresses_of_a_large_pool_are_any(town: Town) -> None:
    given = {(await allocated(town, "v6")).ip for _ in range(20)}
    assert len(given) == 20
    assert all(ip_address(one) in ip_network("2001:db8:7::/64") for one in given)
    # However it is written.
    written = ip_address(given.pop()).exploded
    await addresses.release(town.world.ctx, town.acme, "shop", written)


async def test_the_shared_address_is_had_once_and_told_to_no_edge(town: Town) -> None:
    await town.world.app("inn", "rival")
    first = await allocated(town, "shared_v4")
    assert first.ip == "198.51.100.1"
    assert await allocated(town, "shared_v4") == first
    assert (await allocated(town, "shared_v4", "inn", town.rival)).ip == first.ip
    assert (await told(town)).addresses == ()
    await addresses.release(town.world.ctx, town.acme, "shop", first.ip)
    left = await addresses.listed(town.world.ctx, town.rival, "inn")
    assert [one.ip for one in left] == [first.ip]


async def test_the_shared_address_is_no_apps_own(town: Town) -> None:
    pools = address_pools.parse(("198.51.100.0/31",), (), "198.51.100.0")
    town = replace(town, world=town.world.options(addresses=pools))
    assert (await allocated(town, "v4")).ip == "198.51.100.1"


async def test_a_deleted_app_gives_its_addresses_back(town: Town) -> None:
    given = await allocated(town, "v4")
    await apps.delete(town.world.ctx, town.acme, "shop")
    assert (await told(town)).addresses == ()
    await town.world.app("inn", "rival")
    assert (await allocated(town, "v4", "inn", town.rival)).ip == given.ip


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        (NewAddress("v5"), "invalid_argument", "type: expected v4, v6, shared_v4 or private_v6"),
        (NewAddress("private_v6", network="a b"), "invalid_argument", "'a b' is not the name"),
        (
            NewAddress("private_v6", org_slug="rival"),
            "not_found",
            "organization 'rival' not found",
        ),
        (NewAddress("egress_pair"), "invalid_argument", "for what machines send"),
        (NewAddress("v4", region="ams"), "invalid_argument", "'ams' alone cannot be had"),
        (NewAddress("v4"), "failed_precondition", "no v4 addresses for single apps"),
        (NewAddress("shared_v4"), "failed_precondition", "no shared IPv4 address"),
    ],
)
async def test_what_cannot_be_given_is_told(
    town: Town, wanted: NewAddress, code: str, said: str
) -> None:
    without = town.world.options(addresses=address_pools.Pools()).ctx
    with pytest.raises(errors.Failure, match=said) as caught:
        await addresses.allocate(without, town.acme, "shop", wanted)
    assert caught.value.code == code


async def test_private_addresses_are_of_the_network_whose_machines_may_come(town: Town) -> None:
    ctx = town.world.ctx
    number = town.shop.network_number

    async def given(**within: str) -> AddressAssignment:
        wanted = NewAddress("private_v6", **within)
        return await addresses.allocate(ctx, OPERATOR, "shop", wanted)

    own = await given()
    assert own.ip == f"fdaa:0:{number:x}:0:1::1"
    assert (own.network_org, own.network_name) == ("acme", "default")
    assert (await given()).ip == f"fdaa:0:{number:x}:0:1::2"
    theirs = await given(org_slug="rival")
    lent = await given(network="lab")
    assert (theirs.network_org, theirs.network_name) == ("rival", "default")
    assert (lent.network_org, lent.network_name) == ("acme", "lab")
    networks = {one.ip.partition(":0:1::")[0] for one in (own, theirs, lent)}
    assert len(networks) == 3
    listed = await addresses.listed(ctx, town.acme, "shop")
    assert [one.network_name for one in listed] == ["default", "default", "default", "lab"]
    assert set((await told(town)).addresses) == {one.ip for one in listed}
    # No count is given twice: nobody is reached where another app was.
    await addresses.release(ctx, town.acme, "shop", f"fdaa:0:{number:x}:0:1::2")
    assert (await given()).ip == f"fdaa:0:{number:x}:0:1::3"


async def test_who_has_a_private_address_before_anything_runs_is_not_public(town: Town) -> None:
    ctx = town.world.ctx
    name = "shop.godwit.localhost"
    assert (await told(town)).hostnames == (name,)
    private = (await allocated(town, "private_v6")).ip
    assert (await told(town)).hostnames == ()
    shared = (await allocated(town, "shared_v4")).ip
    assert (await told(town)).hostnames == (name,)
    await addresses.release(ctx, town.acme, "shop", shared)
    assert (await told(town)).hostnames == ()
    await addresses.release(ctx, town.acme, "shop", private)
    assert (await told(town)).hostnames == (name,)


async def test_an_app_that_was_deployed_stays_public(town: Town) -> None:
    async with town.world.store.write() as rows:
        await apps.mark_deployed(rows, town.shop)
    await allocated(town, "private_v6")
    assert (await told(town)).hostnames == ("shop.godwit.localhost",)


async def test_an_app_has_no_more_than_so_many(town: Town, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(addresses, "MOST", 2)
    await allocated(town, "v6")
    await allocated(town, "v6")
    with pytest.raises(errors.Failure, match="has 2 addresses, more are not given"):
        await allocated(town, "v6")


async def test_an_address_is_released_by_its_app_alone(town: Town) -> None:
    await town.world.app("inn", "rival")
    await allocated(town, "v4", "inn", town.rival)
    for app, code in (("shop", "not_found"), ("inn", "permission_denied")):
        with pytest.raises(errors.Failure) as caught:
            await addresses.release(town.world.ctx, town.acme, app, "203.0.113.0")
        assert caught.value.code == code
