"""Signed tokens with which a machine says to others who it is (spec/machines.md §5.2).

    oidc   for the machine's own use elsewhere: clouds trust `https://<api.name>/oidc/<org>`, where
           they find the keys (OpenID Connect Discovery 1.0 §4)
    kms    for this API: what may use the app's secret keys, and nothing else

Asked by the machine itself alone; `tokens.authenticate` asks here who a kms token belongs to.
"""

import secrets
from dataclasses import dataclass
from typing import Any

import jwt

from godwit.base import errors, ids
from godwit.base.principal import Principal
from godwit.control import machine_signer, machines
from godwit.control.context import Context
from godwit.control.records import App
from godwit.wire import host_rpc

KMS_PREFIX = "godwit_kms_"
LONGEST = 4_096
"""Of a kms token."""
_OIDC_S = 600
_KMS_S = 3_600
_EARLIER_S = 30
"""Other clocks may be behind this one."""
_KMS = "godwit:kms"
_TAGS = "https://aws.amazon.com/tags"
_TAGGED = ("org_name", "app_name", "machine_name", "region")
"""Claims that become session tags at AWS, where each is a string of at most 256."""


@dataclass(frozen=True)
class Wanted:
    """What a machine asks of an OIDC token.

    Attributes:
        audience: Whom it is for; empty for the organization.
        aws_principal_tags: Whether AWS is to make session tags of it.
    """

    audience: str = ""
    aws_principal_tags: bool = False


async def oidc(ctx: Context, who: Principal, wanted: Wanted) -> str:
    """Return a token that tells others which machine asks.

    Raises:
        Failure: `permission_denied` for anybody but a machine; `failed_precondition` while the
            API has no name under which others could find the keys.
    """
    app, view = await _of(ctx, who)
    now = ctx.clock.now_ms() // 1000
    claims: dict[str, Any] = {
        "iss": _issuer(ctx, app.org_slug),
        "sub": f"{app.org_slug}:{app.name}:{view.name}",
        "aud": wanted.audience or f"{_origin(ctx)}/{app.org_slug}",
        "iat": now,
        "nbf": now - _EARLIER_S,
        "exp": now + _OIDC_S,
        "jti": secrets.token_hex(16),
        "app_id": app.id,
        "app_name": app.name,
        "org_id": app.org_id,
        "org_name": app.org_slug,
        "machine_id": view.machine_id,
        "machine_name": view.name,
        "machine_version": view.instance_id,
        "region": view.region,
        "image": view.image.reference,
        "image_digest": view.image.digest,
    }
    if wanted.aws_principal_tags:
        tags = {name: [claims[name]] for name in _TAGGED}
        claims[_TAGS] = {"principal_tags": tags, "transitive_tag_keys": list(tags)}
    return ctx.machine_signer.sign(claims)


async def kms(ctx: Context, who: Principal) -> str:
    """Return a token that may use the secret keys of the app whose machine asks.

    Raises:
        Failure: `permission_denied` for anybody but a machine.
    """
    app, view = await _of(ctx, who)
    now = ctx.clock.now_ms() // 1000
    claims = {
        "iss": _KMS,
        "aud": _KMS,
        "sub": view.machine_id,
        "iat": now,
        "exp": now + _KMS_S,
        "org_id": app.org_id,
        "app_id": app.id,
    }
    return KMS_PREFIX + ctx.machine_signer.sign(claims)


async def holder(ctx: Context, secret: str) -> Principal | None:
    """Return who a kms token belongs to: its machine; `None` when it is none, or over."""
    try:
        claims = jwt.decode(
            secret.removeprefix(KMS_PREFIX),
            ctx.machine_signer.key.public_key(),
            algorithms=[machine_signer.ALGORITHM],
            audience=_KMS,
            issuer=_KMS,
            # By control's clock, below.
            options={"verify_exp": False, "verify_iat": False, "require": ["exp", "sub"]},
        )
    except jwt.InvalidTokenError:
        return None
    if claims["exp"] * 1000 <= ctx.clock.now_ms():
        return None
    async with ctx.store.read() as rows:
        machine = await rows.placements.get(claims["sub"])
    if machine is None or machine.destroyed_at_ms is not None:
        return None
    return Principal(
        subject=f"machine:{machine.machine_id}",
        org_ids=frozenset({claims["org_id"]}),
        scopes=frozenset({"secrets:read", "secrets:use"}),
        app_ids=frozenset({claims["app_id"]}),
    )


async def discovery(ctx: Context, org_slug: str) -> dict[str, Any]:
    """Return what OpenID Connect Discovery 1.0 §3 wants of an organization as an issuer.

    Raises:
        Failure: `not_found`; `failed_precondition` while the API has no name.
    """
    await _require_issuer(ctx, org_slug)
    place = _issuer(ctx, org_slug)
    return {
        "issuer": place,
        "jwks_uri": f"{place}/.well-known/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [machine_signer.ALGORITHM],
        "scopes_supported": ["openid"],
        "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", *_TAGGED],
    }


async def public_keys(ctx: Context, org_slug: str) -> list[dict[str, str]]:
    """Return what an organization's tokens are checked with, as JWKs.

    Raises:
        Failure: `not_found`.
    """
    await _require_issuer(ctx, org_slug)
    return [ctx.machine_signer.public()]


async def app_of(ctx: Context, who: Principal, machine_id: str) -> App:
    """Return the app of a machine that asks for itself.

    Raises:
        Failure: `not_found`.
    """
    who.require("machines:read", machine_id=machine_id)
    async with ctx.store.read() as rows:
        placed = await rows.placements.get(machine_id)
        app = None if placed is None else await rows.apps.by_id(placed.app_id)
    if app is None:
        raise errors.not_found(f"machine {machine_id} is gone")
    return app


async def _of(ctx: Context, who: Principal) -> tuple[App, host_rpc.MachineView]:
    """Return the machine that asks, and its app.

    Raises:
        Failure: `permission_denied`, `not_found`.
    """
    if who.machine_id is None:
        raise errors.Failure(
            "permission_denied",
            "only a machine has such a token, and asks for its own",
            hint="ask from inside of it, without a token, at /.fly/api",
        )
    app = await app_of(ctx, who, who.machine_id)
    return app, (await machines.get(ctx, who, app.name, who.machine_id)).view


async def _require_issuer(ctx: Context, org_slug: str) -> None:
    known = None
    if ids.is_slug(org_slug):
        async with ctx.store.read() as rows:
            known = await rows.organizations.by_slug(org_slug)
    if known is None:
        raise errors.not_found(f"there is no organization {org_slug[:64]!r}")


def _issuer(ctx: Context, org_slug: str) -> str:
    return f"{_origin(ctx)}/oidc/{org_slug}"


def _origin(ctx: Context) -> str:
    if ctx.options.api_name is None:
        raise errors.Failure(
            "failed_precondition",
            "this platform's API has no name under which others could find the keys of its tokens",
            hint="the operator sets api.name to a host name that leads to the edges",
        )
    return f"https://{ctx.options.api_name}"
