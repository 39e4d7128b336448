"""API tokens and what they may hand on."""

import pytest

from godwit.base import errors
from godwit.base.principal import ALL_SCOPES
from godwit.control import organizations, seed, tokens
from godwit.control.records import Host
from godwit.testing import databases
from godwit.testing.control import OPERATOR, World
from tests.unit.control.conftest import Town

HOST = Host("a1b2c3d4", 65_537, "key", "lcl", "0000", 0, sealing_key="sealing")
SEED = seed.Seed("godwit_first", HOST)


async def test_only_the_hash_of_a_secret_is_kept(town: Town, database_url: str) -> None:
    _, secret = await tokens.create(town.world.ctx, town.acme, tokens.NewToken("t"))
    everything = await databases.dump(database_url)
    assert secret not in everything
    assert tokens.digest(secret) in everything


async def test_a_token_stands_for_its_organization_and_scopes(town: Town) -> None:
    ctx = town.world.ctx
    wanted = tokens.NewToken("t", scopes=("apps:read", "logs:read"))
    made, secret = await tokens.create(ctx, town.acme, wanted)
    who = await tokens.authenticate(ctx, secret)
    assert who is not None
    assert who.org_ids == town.acme.org_ids
    assert who.scopes == {"apps:read", "logs:read"}
    assert who.subject == f"token:{made.token.id}"
    assert made.slugs == ("acme",)


@pytest.mark.parametrize("secret", ["", "godwit_x", "x" * 600, "\ud800", "\0"])
async def test_other_secrets_are_nobodys(town: Town, secret: str) -> None:
    assert await tokens.authenticate(town.world.ctx, secret) is None


async def test_nobody_gives_what_they_do_not_have(town: Town) -> None:
    poor = town.acme.model_copy(update={"scopes": frozenset({"tokens:write", "apps:read"})})
    for wanted, code in (
        (tokens.NewToken("t", scopes=("apps:write",)), "permission_denied"),
        (tokens.NewToken("t", scopes=("root",)), "invalid_argument"),
        (tokens.NewToken("t", org_slug="rival"), "not_found"),
    ):
        with pytest.raises(errors.Failure) as caught:
            await tokens.create(town.world.ctx, poor, wanted)
        assert caught.value.code == code
    made, _ = await tokens.create(town.world.ctx, poor, tokens.NewToken("t"))
    assert set(made.token.scopes) == {"tokens:write", "apps:read"}


async def test_tokens_of_others_are_neither_seen_nor_revoked(town: Town) -> None:
    ctx = town.world.ctx
    theirs, _ = await tokens.create(ctx, town.rival, tokens.NewToken("theirs"))
    operators, _ = await tokens.create(ctx, OPERATOR, tokens.NewToken("operators"))
    assert await tokens.visible(ctx, town.acme) == []
    for token_id in (theirs.token.id, operators.token.id, "tok_nothing"):
        with pytest.raises(errors.Failure) as caught:
            await tokens.revoke(ctx, town.acme, token_id)
        assert caught.value.code == "not_found"
    assert len(await tokens.visible(ctx, OPERATOR)) == 2
    assert len(await tokens.visible(ctx, OPERATOR, org_slug="rival")) == 1


async def test_seeding_is_idempotent_and_follows_the_file(around: World) -> None:
    await seed.ensure(around.ctx, SEED)
    await seed.ensure(around.ctx, SEED)
    who = await tokens.authenticate(around.ctx, "godwit_first")
    assert who is not None
    assert (who.org_ids, who.scopes) == (None, ALL_SCOPES)
    found = await organizations.visible(around.ctx, who)
    assert [org.slug for org in found] == ["personal"]
    changed = seed.Seed("godwit_second", HOST)
    await seed.ensure(around.ctx, changed)
    assert await tokens.authenticate(around.ctx, "godwit_first") is None
    assert await tokens.authenticate(around.ctx, "godwit_second") is not None


async def test_a_revoked_operator_token_does_not_come_back(around: World) -> None:
    await seed.ensure(around.ctx, SEED)
    who = await tokens.authenticate(around.ctx, "godwit_first")
    assert who is not None
    await tokens.revoke(around.ctx, OPERATOR, who.subject.removeprefix("token:"))
    with pytest.raises(errors.Failure, match="revoked"):
        await seed.ensure(around.ctx, SEED)


async def test_only_the_operator_makes_organizations(town: Town) -> None:
    with pytest.raises(errors.Failure) as caught:
        await organizations.create(town.world.ctx, town.acme, slug="more", name="")
    assert caught.value.code == "permission_denied"
    for slug, code in (("acme", "already_exists"), ("-x", "invalid_argument")):
        with pytest.raises(errors.Failure) as caught:
            await organizations.create(town.world.ctx, OPERATOR, slug=slug, name="")
        assert caught.value.code == code


async def test_audit_rows_are_each_organizations_own(town: Town) -> None:
    ctx = town.world.ctx
    mine = await organizations.audit_page(ctx, town.acme, org_slug=None, before="", limit=100)
    assert {row.org_id for row in mine} == {town.shop.org_id}
    rest = await organizations.audit_page(
        ctx, OPERATOR, org_slug=None, before=mine[0].id, limit=100
    )
    assert mine[0] not in rest
    with pytest.raises(errors.Failure):
        await organizations.audit_page(ctx, town.acme, org_slug="rival", before="", limit=1)


async def test_a_token_that_expires_makes_none_that_outlives_it(town: Town) -> None:
    ctx = town.world.ctx
    maker, secret = await tokens.create(ctx, town.acme, tokens.NewToken("m", lifetime_s=3600))
    who = await tokens.authenticate(ctx, secret)
    assert who is not None
    with pytest.raises(errors.Failure, match="outlives") as caught:
        await tokens.create(ctx, who, tokens.NewToken("longer", lifetime_s=7200))
    assert caught.value.code == "permission_denied"
    heir, _ = await tokens.create(ctx, who, tokens.NewToken("heir"))
    assert heir.token.expires_at_ms == maker.token.expires_at_ms
    shorter, _ = await tokens.create(ctx, who, tokens.NewToken("shorter", lifetime_s=60))
    assert shorter.token.expires_at_ms is not None
    assert shorter.token.expires_at_ms < (maker.token.expires_at_ms or 0)


async def test_a_token_without_end_makes_any(town: Town) -> None:
    ctx = town.world.ctx
    _, secret = await tokens.create(ctx, town.acme, tokens.NewToken("m"))
    who = await tokens.authenticate(ctx, secret)
    assert who is not None
    endless, _ = await tokens.create(ctx, who, tokens.NewToken("endless"))
    assert endless.token.expires_at_ms is None
