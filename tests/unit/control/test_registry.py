"""Who may pull and push what, and the tokens that say so."""

from pathlib import Path

import jwt
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.base.principal import Scope
from godwit.control import registry, registry_tokens
from tests.unit.control.conftest import Town


async def access(town: Town, scope: str, *scopes: Scope) -> list[dict]:
    who = town.acme.model_copy(
        update={"scopes": frozenset(scopes or ("images:pull", "images:push"))}
    )
    token = await registry.grant(town.world.ctx, who, [scope])
    key = town.world.ctx.signer.key.public_key()
    claims = registry_tokens.claims(token, key)
    assert claims["sub"] == town.acme.subject
    return list(claims["access"])


async def test_own_repositories_are_granted(town: Town) -> None:
    for name in ("shop", "shop/cache", "shop/a/b"):
        granted = await access(town, f"repository:{name}:pull,push")
        assert granted == [{"type": "repository", "name": name, "actions": ["pull", "push"]}]


async def test_scopes_of_the_token_bound_the_actions(town: Town) -> None:
    granted = await access(town, "repository:shop:pull,push,delete", "images:pull")
    assert [one["actions"] for one in granted] == [["pull"]]
    assert await access(town, "repository:shop:pull,push", "apps:read") == []
    assert (await access(town, "repository:shop:*"))[0]["actions"] == ["pull", "push"]


@pytest.mark.parametrize(
    "scope",
    [
        "repository:theirs:pull",
        "repository:theirs/shop:pull",
        "repository:nobody:pull",
        "repository:shop-2:pull",
        "repository:../shop:pull",
        "repository:SHOP:pull",
        "repository::pull",
        "registry:catalog:*",
        "repository:shop",
        "",
        ":::",
    ],
)
async def test_nothing_else_is(town: Town, scope: str) -> None:
    await town.world.app("theirs", "rival")
    assert await access(town, scope) == []


async def test_several_scopes_share_a_parameter(town: Town) -> None:
    await town.world.app("second", "acme")
    granted = await access(town, "repository:shop:pull repository:second:push repository:x:pull")
    assert [one["name"] for one in granted] == ["shop", "second"]


async def test_a_token_ends(town: Town) -> None:
    token = await registry.grant(town.world.ctx, town.acme, [])
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == registry.LIFETIME_S
    assert (claims["iss"], claims["aud"]) == ("godwit", "godwit-registry")


async def test_the_own_registry_is_known_by_its_address_alone(town: Town) -> None:
    ctx, own = town.world.ctx, town.world.ctx.options.registry
    assert registry.own_repository(ctx, f"{own}/shop/x:v1@sha256:{'0' * 64}") == "shop/x"
    for other in ("shop", "docker.io/shop", "localhost:5050/shop", "127.0.0.1:50500/shop"):
        assert registry.own_repository(ctx, other) is None
    for wrong in (f"{own}/", f"{own}/../x", f"{own}/A", ""):
        with pytest.raises(errors.Failure):
            registry.own_repository(ctx, wrong)


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    first = registry_tokens.ensure(tmp_path)
    assert registry_tokens.ensure(tmp_path).key_id == first.key_id
    assert (tmp_path / "registry.key").stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate((tmp_path / "registry.crt").read_bytes())
    assert certificate.public_key() == first.key.public_key()
    assert len(first.key_id.split(":")) == 12


@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_scopes_are_read_or_left_out(texts: list[str]) -> None:
    for one in registry_tokens.parse_scopes(texts):
        assert one.actions <= {"pull", "push"}
        assert registry_tokens.is_repository(one.repository)
