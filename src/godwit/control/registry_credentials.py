"""Credentials for registries that are not the platform's: one organization's own, sealed at rest.

Who may use them is decided by organization alone: an app's image is looked up, pulled and built
upon with the credentials of the app's organization, or with none. The password leaves this module
as a pull token for one machine's image, or towards a build of that organization.
"""

import json
from dataclasses import dataclass, field

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import audit, organizations
from godwit.control.context import Context
from godwit.control.records import RegistryCredential
from godwit.images import auth, reference

_LONGEST_USERNAME = 255
_LONGEST_PASSWORD = 16_384
"""Some clouds' registry passwords are signed documents of several thousand characters."""


@dataclass(frozen=True)
class Login:
    """What a caller gives.

    Attributes:
        registry: `host[:port]`; `docker.io` for Docker Hub.
        unchecked: Keep it without asking the registry whether it is good.
    """

    registry: str
    username: str
    password: str = field(repr=False)
    unchecked: bool = False


async def login(ctx: Context, who: Principal, org_slug: str, wanted: Login) -> RegistryCredential:
    """Keep an organization's credentials for a registry, after the registry took them.

    Raises:
        Failure: `invalid_argument`; `permission_denied` when the registry refuses them;
            `unavailable` when it cannot be asked.
    """
    who.require("orgs:write")
    registry = _registry(ctx, wanted.registry)
    given = auth.Credentials(username=wanted.username, password=wanted.password)
    _check(given)
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "orgs:write", org_slug)
    if not wanted.unchecked:
        await ctx.images.check(registry, given.pull_token())
    now_ms = ctx.clock.now_ms()
    secret = json.dumps({"password": wanted.password}).encode()
    row = RegistryCredential(
        org_id=org.id,
        registry=registry,
        username=wanted.username,
        sealed=ctx.sealer.seal(secret, _context(org.id, registry)),
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    async with ctx.store.write() as rows:
        known = await rows.registry_credentials.get(org.id, registry)
        await rows.registry_credentials.put(row)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "registries.login",
            registry,
            org_id=org.id,
            username=wanted.username,
            replaced=known is not None,
        )
        kept = await rows.registry_credentials.get(org.id, registry)
    return kept or row


async def logout(ctx: Context, who: Principal, org_slug: str, registry: str) -> None:
    """Forget an organization's credentials for a registry; machines that run go on running.

    Raises:
        Failure: `not_found`.
    """
    who.require("orgs:write")
    registry = _registry(ctx, registry)
    async with ctx.store.write() as rows:
        org = await organizations.require(rows, who, "orgs:write", org_slug)
        if not await rows.registry_credentials.remove(org.id, registry):
            raise errors.not_found(
                f"organization {org.slug} has no credentials for {registry}",
                hint="list them with `godwit registries list`",
            )
        await audit.record(rows, ctx.clock, who, "registries.logout", registry, org_id=org.id)


async def listed(ctx: Context, who: Principal, org_slug: str) -> list[RegistryCredential]:
    """Return which registries an organization has credentials for, and as whom."""
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "orgs:read", org_slug)
        return await rows.registry_credentials.of_org(org.id)


async def of_registry(ctx: Context, org_id: str, registry: str) -> auth.Credentials | None:
    """Return an organization's credentials for a registry, `None` when it has none.

    Raises:
        Failure: `failed_precondition` when they do not open.
    """
    async with ctx.store.read() as rows:
        row = await rows.registry_credentials.get(org_id, _same(registry))
    return None if row is None else _opened(ctx, row)


async def of_builds(ctx: Context, org_id: str) -> dict[str, auth.Credentials]:
    """Return all of an organization's credentials by registry, for the bases of its builds."""
    async with ctx.store.read() as rows:
        found = await rows.registry_credentials.of_org(org_id)
    return {row.registry: _opened(ctx, row) for row in found}


def _opened(ctx: Context, row: RegistryCredential) -> auth.Credentials:
    secret = ctx.sealer.open(row.sealed, _context(row.org_id, row.registry))
    return auth.Credentials(username=row.username, password=json.loads(secret)["password"])


def _context(org_id: str, registry: str) -> str:
    """Return what a sealed password belongs to: it opens for nothing else."""
    return f"registry-credentials\0{org_id}\0{registry}"


def _same(registry: str) -> str:
    return registry.lower()


def _registry(ctx: Context, text: str) -> str:
    """Return the one way a registry is written: as references are completed, in lower case.

    Raises:
        Failure: `invalid_argument`.
    """
    named = text.strip().lower()
    if "/" in named:
        hint = named.partition("://")[2] or named
        raise errors.invalid(
            f"registry: {text!r} is not host[:port]", hint=f"write {hint.partition('/')[0]}"
        )
    if "." not in named and ":" not in named and named != "localhost":
        raise errors.invalid(
            f"registry: {text!r} is not host[:port]", hint="write it like registry.example.com"
        )
    registry = reference.parse(f"{named}/x").registry
    if registry == ctx.options.registry:
        raise errors.invalid(
            f"registry: {registry} is the platform's own",
            hint="it takes API tokens: `docker login` with any user and a token as password",
        )
    if reference.is_of_the_host(registry):
        raise errors.invalid(
            f"registry: {registry} is an address of the platform's own host",
            hint="give the name under which every host reaches the registry",
        )
    return registry


def _check(given: auth.Credentials) -> None:
    if not 0 < len(given.username) <= _LONGEST_USERNAME or not given.username.isprintable():
        raise errors.invalid(f"username: must be 1 to {_LONGEST_USERNAME} printable characters")
    if ":" in given.username:
        raise errors.invalid("username: must not hold a colon")
    if not 0 < len(given.password) <= _LONGEST_PASSWORD or not given.password.isprintable():
        raise errors.invalid(
            f"password: must be 1 to {_LONGEST_PASSWORD} printable characters, in one line"
        )
