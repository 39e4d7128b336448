"""Organizations: what ends with one, and what never does."""

import pytest

from godwit.base import errors
from godwit.control import (
    apps,
    organizations,
    registry_credentials,
    removal,
    replays,
    tokens,
)
from godwit.testing.control import OPERATOR
from tests.unit.control.conftest import Town


async def token_of(town: Town, slug: str) -> str:
    _, secret = await tokens.create(town.world.ctx, OPERATOR, tokens.NewToken("ci", slug))
    return secret


async def slugs(town: Town) -> list[str]:
    return [one.slug for one in await organizations.visible(town.world.ctx, OPERATOR)]


async def test_one_with_apps_is_not_deleted(town: Town) -> None:
    with pytest.raises(errors.Failure) as caught:
        await organizations.delete(town.world.ctx, OPERATOR, "acme")
    assert caught.value.code == "failed_precondition"
    assert "has 1 apps: shop" in caught.value.message
    assert "acme" in await slugs(town)


async def test_its_tokens_and_logins_end_and_nobody_elses(town: Town) -> None:
    ctx = town.world.ctx
    gone, stays = await token_of(town, "acme"), await token_of(town, "rival")
    async with ctx.store.write() as rows:
        org = await organizations.require(rows, OPERATOR, "orgs:read", "acme")
    wanted = registry_credentials.Login("ghcr.io", "bot", "geheim", unchecked=True)
    await registry_credentials.login(ctx, OPERATOR, "acme", wanted)
    await removal.delete_app(ctx, OPERATOR, "shop", force=True)
    await organizations.delete(ctx, OPERATOR, "acme")
    assert await tokens.authenticate(ctx, gone) is None
    assert await tokens.authenticate(ctx, stays) is not None
    async with ctx.store.read() as rows:
        assert await rows.registry_credentials.of_org(org.id) == []
    assert "acme" not in await slugs(town)
    with pytest.raises(errors.Failure, match="not found"):
        await organizations.delete(ctx, OPERATOR, "acme")


async def test_replays_across_networks_are_told_with_every_app_of_one_alone(town: Town) -> None:
    ctx = town.world.ctx
    beside = apps.NewApp(org_slug="acme", name="beside", network="other")
    await apps.create(ctx, OPERATOR, beside)
    for allowed in (True, False):
        async with ctx.store.read() as rows:
            before = await rows.outbox.newest()
        # Said again it is as it was: nothing is told.
        for _ in range(2):
            org = await replays.allow_across_networks(ctx, town.acme, "acme", allowed=allowed)
            assert org.replays_across_networks == allowed
        async with ctx.store.read() as rows:
            told = [row.fact for row in await rows.outbox.after(before, 100)]
        assert sorted(one["app"] for one in told) == ["beside", "shop"]
        assert {one["replays_across_networks"] for one in told} == {allowed}
        assert (await apps.get(ctx, town.acme, "shop")).app.replays_across_networks == allowed
    with pytest.raises(errors.Failure, match="not found"):
        await replays.allow_across_networks(ctx, town.rival, "acme", allowed=True)


async def test_a_new_one_of_the_same_slug_has_nothing_of_the_old_one(town: Town) -> None:
    ctx = town.world.ctx
    await removal.delete_app(ctx, OPERATOR, "shop", force=True)
    await organizations.delete(ctx, OPERATOR, "acme")
    made = await organizations.create(ctx, OPERATOR, slug="acme", name="")
    assert made.id != town.shop.org_id
    with pytest.raises(apps.NameTaken):
        await apps.create(ctx, OPERATOR, apps.NewApp(org_slug="acme", name="shop"))
    app = await apps.create(ctx, OPERATOR, apps.NewApp(org_slug="acme", name="other"))
    assert app.network_number != town.shop.network_number


async def test_only_the_operator_deletes_them(town: Town) -> None:
    with pytest.raises(errors.Failure, match="only the operator"):
        await organizations.delete(town.world.ctx, town.acme, "acme")
