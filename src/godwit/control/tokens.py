"""API tokens: opaque `godwit_…` secrets, of which only the SHA-256 is kept.

`authenticate` turns the secret of a request into a `Principal`; everything else manages tokens.
Those that machines get are signed instead, see `machine_tokens`.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

from godwit.base import clock, errors, ids
from godwit.base.principal import ALL_SCOPES, APP_SCOPES, Principal, Scope
from godwit.control import apps, audit, machine_tokens, organizations
from godwit.control.context import Context
from godwit.control.records import Token
from godwit.control.rows import Rows

_PREFIX = "godwit_"
_LONGEST_SECRET = 512
_ID = re.compile(r"tok_[0-9a-z]{26}")


@dataclass(frozen=True)
class NewToken:
    """What a caller wants.

    Attributes:
        org_slug: `None` means wherever the caller itself may act.
        app_name: The one app that it is for; `None` means all.
        scopes: `None` means those the caller has, of those that an app knows if it is for one.
        lifetime_s: `None` means until it is revoked, or as long as the maker's own.
    """

    name: str
    org_slug: str | None = None
    app_name: str | None = None
    scopes: tuple[str, ...] | None = None
    lifetime_s: int | None = None


@dataclass(frozen=True)
class TokenWithSlugs:
    """A token, the slugs of its organizations and the names of its apps; none for all."""

    token: Token
    slugs: tuple[str, ...]
    apps: tuple[str, ...] = ()


def digest(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


async def authenticate(ctx: Context, secret: str) -> Principal | None:
    """Return who a secret belongs to, `None` when it is unknown, expired or revoked."""
    if secret.startswith(machine_tokens.KMS_PREFIX) and len(secret) <= machine_tokens.LONGEST:
        return await machine_tokens.holder(ctx, secret)
    if not secret or len(secret) > _LONGEST_SECRET:
        return None
    async with ctx.store.read() as rows:
        token = await rows.tokens.by_hash(digest(secret))
    if token is None or token.revoked_at_ms is not None:
        return None
    if token.expires_at_ms is not None and token.expires_at_ms <= ctx.clock.now_ms():
        return None
    known = ALL_SCOPES if token.app_ids is None else APP_SCOPES
    return Principal(
        subject=f"token:{token.id}",
        org_ids=None if token.org_ids is None else frozenset(token.org_ids),
        scopes=frozenset(scope for scope in known if scope in token.scopes),
        app_ids=None if token.app_ids is None else frozenset(token.app_ids),
    )


async def create(ctx: Context, who: Principal, wanted: NewToken) -> tuple[TokenWithSlugs, str]:
    """Make a token that can do no more than its maker; return it and its secret.

    Raises:
        Failure: `invalid_argument`, `not_found`, `permission_denied`.
    """
    who.require("tokens:write")
    scopes = _scopes(who, wanted)
    now_ms = ctx.clock.now_ms()
    secret = _PREFIX + secrets.token_urlsafe(32)
    async with ctx.store.write() as rows:
        org_ids, app_ids = await _reach(rows, who, wanted)
        token = Token(
            id=ids.tagged("tok"),
            name=wanted.name,
            hash=digest(secret),
            user_id=None,
            org_ids=org_ids,
            scopes=tuple(sorted(scopes)),
            created_at_ms=now_ms,
            expires_at_ms=await _expiry(rows, who, wanted, now_ms),
            app_ids=app_ids,
        )
        await rows.tokens.add(token)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "tokens.create",
            token.id,
            org_id=org_ids[0] if org_ids and len(org_ids) == 1 else None,
            name=wanted.name,
            scopes=sorted(scopes),
        )
        made = await _with_slugs(rows, token)
    return made, secret


async def _reach(
    rows: Rows, who: Principal, wanted: NewToken
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return in which organizations, and on which apps, a new token may act."""
    org_ids = None if who.org_ids is None else tuple(sorted(who.org_ids))
    if wanted.org_slug is not None:
        org = await organizations.require(rows, who, "tokens:write", wanted.org_slug)
        org_ids = (org.id,)
    if wanted.app_name is None:
        return org_ids, None
    app = await apps.require(rows, who, "tokens:write", wanted.app_name)
    if wanted.org_slug not in (None, app.org_slug):
        raise errors.invalid(f"app {app.name!r} is not of organization {wanted.org_slug!r}")
    return (app.org_id,), (app.id,)


async def visible(
    ctx: Context, who: Principal, *, org_slug: str | None = None
) -> list[TokenWithSlugs]:
    """Return the tokens of this principal's organizations, or of one of them."""
    who.require("tokens:read")
    async with ctx.store.read() as rows:
        org_ids = who.org_ids
        if org_slug is not None:
            org = await organizations.require(rows, who, "tokens:read", org_slug)
            org_ids = frozenset({org.id})
        found = await rows.tokens.visible(org_ids)
        return [await _with_slugs(rows, token) for token in found]


async def current(ctx: Context, who: Principal) -> TokenWithSlugs:
    """Return the token that asks.

    Raises:
        Failure: `not_found` for a principal that came without a token.
    """
    async with ctx.store.read() as rows:
        token = await rows.tokens.by_id(who.subject.removeprefix("token:"))
        if token is None:
            raise errors.not_found("this request came without a token")
        return await _with_slugs(rows, token)


async def revoke(ctx: Context, who: Principal, token_id: str) -> None:
    """Make a token useless at once.

    Raises:
        Failure: `not_found` when it is unknown or acts outside the caller's organizations.
    """
    who.require("tokens:write")
    async with ctx.store.write() as rows:
        known = _ID.fullmatch(token_id) is not None
        token = await rows.tokens.by_id(token_id) if known else None
        if token is None or not _may_manage(who, token):
            raise errors.not_found(f"token {token_id!r} not found")
        await rows.tokens.revoke(token.id, ctx.clock.now_ms())
        org_id = token.org_ids[0] if token.org_ids and len(token.org_ids) == 1 else None
        await audit.record(rows, ctx.clock, who, "tokens.revoke", token.id, org_id=org_id)


async def adopt(ctx: Context, rows: Rows, *, name: str, secret: str, user_id: str) -> None:
    """Ensure a token of the operator's with a given secret; others of that name end."""
    known = await rows.tokens.by_hash(digest(secret))
    if known is not None and known.revoked_at_ms is None:
        if set(known.scopes) != ALL_SCOPES:
            # Made by a release that knew fewer.
            await rows.tokens.set_scopes(known.id, sorted(ALL_SCOPES))
        return
    for other in await rows.tokens.visible(None):
        if other.name == name and other.user_id == user_id:
            await rows.tokens.revoke(other.id, ctx.clock.now_ms())
    if known is not None:
        raise errors.Failure(
            "failed_precondition",
            f"the secret of token {name!r} was revoked",
            hint="remove the file keys/admin.token and start again: a new one is made",
        )
    await rows.tokens.add(
        Token(
            id=ids.tagged("tok"),
            name=name,
            hash=digest(secret),
            user_id=user_id,
            org_ids=None,
            scopes=tuple(sorted(ALL_SCOPES)),
            created_at_ms=ctx.clock.now_ms(),
        )
    )


async def _expiry(rows: Rows, who: Principal, wanted: NewToken, now_ms: int) -> int | None:
    """Return when a new token ends: not after the one that makes it.

    Raises:
        Failure: `permission_denied` when it was to live longer.
    """
    asked = None if wanted.lifetime_s is None else now_ms + wanted.lifetime_s * 1000
    kind, _, token_id = who.subject.partition(":")
    maker = await rows.tokens.by_id(token_id) if kind == "token" else None
    if maker is None or maker.expires_at_ms is None:
        return asked
    if asked is not None and asked > maker.expires_at_ms:
        raise errors.Failure(
            "permission_denied",
            "expiry: a token cannot make one that outlives it; this one expires at"
            f" {clock.rfc3339(maker.expires_at_ms)}",
            hint="ask for a shorter time, or leave expiry out",
        )
    return maker.expires_at_ms if asked is None else asked


async def _with_slugs(rows: Rows, token: Token) -> TokenWithSlugs:
    found = await rows.organizations.by_ids(token.org_ids) if token.org_ids else []
    named = [await rows.apps.by_id(app_id) for app_id in token.app_ids or ()]
    return TokenWithSlugs(
        token,
        tuple(org.slug for org in found),
        tuple(app.name for app in named if app is not None and app.deleted_at_ms is None),
    )


def _scopes(who: Principal, new: NewToken) -> frozenset[Scope]:
    of_one_app, wanted = new.app_name is not None, new.scopes
    if wanted is None:
        return who.scopes & APP_SCOPES if of_one_app else who.scopes
    unknown = sorted(set(wanted) - ALL_SCOPES)
    if of_one_app and not unknown and not APP_SCOPES.issuperset(wanted):
        raise errors.invalid(
            f"scopes: {', '.join(sorted(set(wanted) - APP_SCOPES))} cannot be had for one app;"
            f" there are {', '.join(sorted(APP_SCOPES))}"
        )
    if unknown:
        raise errors.invalid(
            f"scopes: unknown {', '.join(unknown)}; there are {', '.join(sorted(ALL_SCOPES))}"
        )
    chosen = frozenset(scope for scope in ALL_SCOPES if scope in wanted)
    if not chosen <= who.scopes:
        lacking = ", ".join(sorted(chosen - who.scopes))
        raise errors.Failure(
            "permission_denied", f"a token cannot give what it does not have: {lacking}"
        )
    return chosen


def _may_manage(who: Principal, token: Token) -> bool:
    if who.org_ids is None:
        return True
    return token.org_ids is not None and set(token.org_ids) <= who.org_ids
