"""Tokens of machines: what they say, who can check it, and how long they are good."""

from dataclasses import replace
from pathlib import Path

import jwt
import pytest

from godwit.base import errors, principal
from godwit.control import kms, machine_signer, machine_tokens, machines, tokens
from tests.unit.control.conftest import Town

AWS = "https://aws.amazon.com/tags"


async def machine(town: Town) -> tuple[machines.Machine, principal.Principal]:
    wanted = machines.NewMachine(config={"image": "nginx:1"}, name="web-1")
    made = await machines.create(town.world.ctx, town.acme, "shop", wanted)
    return made, principal.machine(made.view.machine_id, made.view.org_id)


async def test_a_token_says_which_machine_it_is_to_whoever_finds_the_keys(town: Town) -> None:
    ctx = town.world.ctx
    made, who = await machine(town)
    token = await machine_tokens.oidc(ctx, who, machine_tokens.Wanted("sts.amazonaws.com"))
    discovered = await machine_tokens.discovery(ctx, "acme")
    assert discovered["jwks_uri"] == f"{discovered['issuer']}/.well-known/jwks"
    keys = jwt.PyJWKSet.from_dict({"keys": await machine_tokens.public_keys(ctx, "acme")})
    said = jwt.decode(
        token,
        keys[jwt.get_unverified_header(token)["kid"]],
        algorithms=discovered["id_token_signing_alg_values_supported"],
        audience="sts.amazonaws.com",
        issuer="https://api.example.com/oidc/acme",
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    assert said["nbf"] <= said["iat"] <= ctx.clock.now_ms() // 1000
    assert said["exp"] - said["iat"] == 600
    expected = {
        "sub": "acme:shop:web-1",
        "app_id": town.shop.id,
        "app_name": "shop",
        "org_id": town.shop.org_id,
        "org_name": "acme",
        "machine_id": made.view.machine_id,
        "machine_name": "web-1",
        "machine_version": made.view.instance_id,
        "region": "lcl",
        "image": made.view.image.reference,
        "image_digest": made.view.image.digest,
    }
    assert {name: said[name] for name in expected} == expected
    assert AWS not in said


async def test_without_an_audience_it_is_for_the_organization_and_ids_do_not_repeat(
    town: Town,
) -> None:
    _, who = await machine(town)
    ctx, wanted = town.world.ctx, machine_tokens.Wanted(aws_principal_tags=True)
    said = [
        jwt.decode(
            await machine_tokens.oidc(ctx, who, wanted), options={"verify_signature": False}
        )
        for _ in range(2)
    ]
    assert {one["aud"] for one in said} == {"https://api.example.com/acme"}
    assert said[0]["jti"] != said[1]["jti"]
    tags = said[0][AWS]
    assert tags["principal_tags"]["app_name"] == ["shop"]
    assert tags["transitive_tag_keys"] == list(tags["principal_tags"])


async def test_nobody_but_a_machine_has_such_tokens(town: Town) -> None:
    for asked in (
        machine_tokens.oidc(town.world.ctx, town.acme, machine_tokens.Wanted()),
        machine_tokens.kms(town.world.ctx, town.acme),
    ):
        with pytest.raises(errors.Failure, match="only a machine has such a token"):
            await asked
    stranger = principal.machine("0000000000000b", town.shop.org_id)
    with pytest.raises(errors.Failure, match="is gone"):
        await machine_tokens.kms(town.world.ctx, stranger)


async def test_an_api_without_a_name_issues_no_oidc_tokens(town: Town) -> None:
    _, who = await machine(town)
    ctx = replace(town.world.ctx, options=replace(town.world.ctx.options, api_name=None))
    with pytest.raises(errors.Failure, match="no name under which others could find") as refused:
        await machine_tokens.oidc(ctx, who, machine_tokens.Wanted())
    assert refused.value.code == "failed_precondition"
    assert await machine_tokens.kms(ctx, who)
    for slug in ("../acme", "nobody"):
        with pytest.raises(errors.Failure, match="there is no organization"):
            await machine_tokens.discovery(town.world.ctx, slug)


async def test_a_kms_token_uses_the_apps_keys_for_an_hour_and_does_nothing_else(
    town: Town,
) -> None:
    ctx = town.world.ctx
    made, who = await machine(town)
    await kms.make(ctx, town.acme, "shop", kms.NewKey("k", "hs256"))
    secret = await machine_tokens.kms(ctx, who)
    holder = await tokens.authenticate(ctx, secret)
    assert holder is not None
    assert holder.subject == f"machine:{made.view.machine_id}"
    assert await kms.use(ctx, holder, "shop", "k", kms.Use("sign", b"text"))
    for refused in (
        kms.make(ctx, holder, "shop", kms.NewKey("other", "hs256")),
        machines.get(ctx, holder, "shop", made.view.machine_id),
        kms.listed(ctx, replace_app(holder), "shop"),
    ):
        with pytest.raises(errors.Failure) as failure:
            await refused
        assert failure.value.code == "permission_denied"
    town.world.clock.skew_ms = 1_800_000
    assert await tokens.authenticate(ctx, secret) is not None
    town.world.clock.skew_ms = 3_600_000
    assert await tokens.authenticate(ctx, secret) is None


def replace_app(holder: principal.Principal) -> principal.Principal:
    return holder.model_copy(update={"app_ids": frozenset({"app_other"})})


async def test_what_is_no_kms_token_is_nobody(town: Town, tmp_path: Path) -> None:
    ctx = town.world.ctx
    _, who = await machine(town)
    good = await machine_tokens.kms(ctx, who)
    oidc = await machine_tokens.oidc(ctx, who, machine_tokens.Wanted())
    body = jwt.decode(
        good.removeprefix(machine_tokens.KMS_PREFIX), options={"verify_signature": False}
    )
    forged = machine_signer.ensure(tmp_path).sign(body)
    unsigned = jwt.encode(body, None, algorithm="none")
    for text in (oidc, forged, unsigned, "", "a.b.c", "x" * 5_000):
        assert await tokens.authenticate(ctx, machine_tokens.KMS_PREFIX + text) is None, text
    assert await tokens.authenticate(ctx, good) is not None


def test_a_signer_is_kept_with_its_name(tmp_path: Path) -> None:
    made = machine_signer.ensure(tmp_path)
    assert machine_signer.ensure(tmp_path).public() == made.public()
    assert (tmp_path / machine_signer.FILE).stat().st_mode & 0o777 == 0o600
