"""What a token is and whether it allows something, for services that ask in its stead.

Public endpoints of the Machines API (spec/machines.md §1.2): whoever asks has the token itself, so
they tell nothing that its holder could not find out. Caveats are of Godwit's own types; clients
keep those that they do not know. Actions are letters, as there: r w c d C.
"""

from dataclasses import dataclass

from godwit.base import clock, errors
from godwit.base.principal import Principal, Scope
from godwit.control import apps, machines, organizations, tokens
from godwit.control.context import Context
from godwit.control.rows import Rows

MOST_TOKENS = 8
ACTIONS = "rwcdC"
_SCHEMES = ("bearer ", "flyv1 ")
_FEATURES: dict[str, tuple[Scope, Scope]] = {
    "images": ("images:pull", "images:push"),
    "metadata": ("machines:read", "machines:write"),
    "builder": ("builds:write", "builds:write"),
    "membership": ("orgs:read", "orgs:write"),
    "billing": ("orgs:read", "orgs:write"),
    "authentication": ("orgs:read", "orgs:write"),
}
"""The scopes to read a feature and to do anything else with it. Others do not exist here."""


@dataclass(frozen=True)
class Caveat:
    """What limits a token: a type and what it says."""

    type: str
    body: dict[str, object]


@dataclass(frozen=True)
class Verified:
    """A token that is good.

    Attributes:
        secret: The token itself.
        token_id: What it is called where tokens are listed.
    """

    secret: str
    token_id: str
    caveats: tuple[Caveat, ...]


@dataclass(frozen=True)
class Access:
    """What somebody is about to do with one thing. A thing is named with those it belongs to."""

    action: str
    org_slug: str | None = None
    app_name: str | None = None
    machine_id: str | None = None
    volume_id: str | None = None
    app_feature: str | None = None
    machine_feature: str | None = None
    org_feature: str | None = None
    command: tuple[str, ...] = ()
    storage_object: str | None = None


async def authenticate(ctx: Context, header: str) -> list[Verified]:
    """Return the tokens of an `Authorization` header that are good; others are left out.

    Raises:
        Failure: `invalid_argument` when there is no token in it.
    """
    secrets = _secrets(header)
    if not secrets:
        raise errors.invalid("header: holds no token", hint="give it as `Bearer …` or `FlyV1 …`")
    found = [await _verified(ctx, secret) for secret in secrets]
    return [one for _, one in filter(None, found)]


async def authorize(ctx: Context, header: str, access: Access) -> Verified:
    """Return the token of a header that allows an access.

    Raises:
        Failure: `invalid_argument` when none does, and when the access is of nothing that is.
    """
    _check(access)
    refusal: errors.Failure | None = None
    for secret in _secrets(header):
        found = await _verified(ctx, secret)
        if found is None:
            continue
        who, verified = found
        try:
            async with ctx.store.read() as rows:
                await _require(rows, who, access)
        except errors.Failure as failure:
            refusal = refusal or failure
        else:
            return verified
    if refusal is not None:
        raise errors.invalid(f"access: {refusal.message}")
    raise errors.invalid("header: holds no token that is good")


def _secrets(header: str) -> list[str]:
    text = header.strip()
    scheme = next((one for one in _SCHEMES if text.lower().startswith(one)), "")
    parts = (part.strip() for part in text[len(scheme) :].split(","))
    return [part for part in parts if part][:MOST_TOKENS]


async def _verified(ctx: Context, secret: str) -> tuple[Principal, Verified] | None:
    who = await tokens.authenticate(ctx, secret)
    if who is None:
        return None
    async with ctx.store.read() as rows:
        token = await rows.tokens.by_id(who.subject.removeprefix("token:"))
        orgs = await rows.organizations.by_ids(who.org_ids)
        named = [await rows.apps.by_id(app_id) for app_id in sorted(who.app_ids or ())]
    caveats = [Caveat("Scopes", {"scopes": sorted(who.scopes)})]
    if who.org_ids is not None:
        caveats.append(Caveat("Organizations", {"slugs": [org.slug for org in orgs]}))
    if who.app_ids is not None:
        caveats.append(Caveat("Applications", {"names": [app.name for app in named if app]}))
    if token is not None and token.expires_at_ms is not None:
        ends = clock.rfc3339(token.expires_at_ms)
        caveats.append(Caveat("Expiry", {"not_after": ends}))
    caveats = [Caveat(f"Godwit{one.type}", one.body) for one in caveats]
    return who, Verified(secret, who.subject, tuple(caveats))


def _check(access: Access) -> None:
    """Return if an access is of one thing.

    Raises:
        Failure: `invalid_argument`.
    """
    if not access.action or set(access.action) - set(ACTIONS):
        raise errors.invalid(f"access.action: must be one or more of the letters {ACTIONS}")
    of_app = access.machine_id or access.volume_id or access.app_feature
    if of_app and not access.app_name:
        raise errors.invalid("access.app_name: is required for what belongs to an app")
    of_machine = access.machine_feature or access.command
    if of_machine and not access.machine_id:
        raise errors.invalid("access.machine_id: is required for what belongs to a machine")
    if not access.app_name and not access.org_slug:
        raise errors.invalid("access: name an app_name or an org_slug")
    things = (access.machine_id, access.volume_id, access.app_feature)
    if sum(one is not None for one in things) > 1:
        raise errors.invalid("access: name one thing of an app, not several")


async def _require(rows: Rows, who: Principal, access: Access) -> None:
    """Return if a principal may do that.

    Raises:
        Failure: `permission_denied`, `not_found`, `invalid_argument`.
    """
    scopes = _scopes(access)
    for scope in scopes:
        if access.app_name is None:
            await organizations.require(rows, who, scope, access.org_slug or "")
            continue
        app = await apps.require(rows, who, scope, access.app_name)
        who.require(scope, app.org_id, app_id=app.id)
        if access.org_slug not in (None, app.org_slug):
            raise errors.not_found(f"app {app.name!r} is not of {access.org_slug!r}")
        if access.machine_id is not None:
            await machines.locate(rows, who, scope, app.name, access.machine_id)


def _scopes(access: Access) -> list[Scope]:
    """Return what an access needs.

    Raises:
        Failure: `not_found` for what this platform does not have.
    """
    if access.volume_id or access.storage_object:
        raise errors.not_found("this platform has no volumes and no storage objects yet")
    if access.command:
        return ["machines:exec"]
    read, change = _pair(access)
    return sorted({read if letter == "r" else change for letter in access.action})


def _pair(access: Access) -> tuple[Scope, Scope]:
    """Return the scopes to read a thing and to do anything else with it.

    Raises:
        Failure: `not_found`.
    """
    feature = access.machine_feature or access.app_feature or access.org_feature
    if feature is not None:
        known = _FEATURES.get(feature)
        if known is None:
            raise errors.not_found(f"tokens of this platform allow nothing with {feature!r}")
        return known
    if access.machine_id is not None:
        return "machines:read", "machines:write"
    if access.app_name is not None:
        return "apps:read", "apps:write"
    return "orgs:read", "orgs:write"
