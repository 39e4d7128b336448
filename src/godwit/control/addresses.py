"""Addresses of apps: allocated, listed, released.

Called by the API. Public ones come from the operator's pools, private ones from the network whose
machines may use them. Edges learn of an app's own addresses with its fact and bring what arrives
there to the app, whatever host name it asks for. The shared address is no app's own: an app that
has it is told so, is found by its host names, and has its UDP ports there (`shared_ports`).
"""

import random
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from godwit.base import errors, ids
from godwit.base.principal import Principal
from godwit.control import address_pools, apps, audit, organizations, shared_ports
from godwit.control.address_pools import Address
from godwit.control.context import Context
from godwit.control.records import PRIVATE, AddressAssignment, App, Network
from godwit.control.rows import Rows
from godwit.wire.private import app_address

MOST = 64
"""Addresses of one app."""
_NOT_THERE = {
    "egress_v4": "addresses for what machines send",
    "egress_v6": "addresses for what machines send",
    "egress_pair": "addresses for what machines send",
}


@dataclass(frozen=True)
class NewAddress:
    """What a caller wants.

    Attributes:
        type: `v4`, `v6`, `shared_v4` or `private_v6`.
        region: Empty or `global`: an address answers in every region.
        service_name: Kept and told again.
        org_slug: Of a private one: the organization whose machines reach it; empty for the
            app's own.
        network: Of a private one: their network, `default` if only the organization is given;
            empty with that for the app's own.
    """

    type: str
    region: str = ""
    service_name: str = ""
    org_slug: str = ""
    network: str = ""


async def listed(ctx: Context, who: Principal, app_name: str) -> list[AddressAssignment]:
    """Return an app's addresses, the oldest first."""
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "apps:read", app_name)
        return await rows.addresses.of_app(app.id)


async def allocate(
    ctx: Context, who: Principal, app_name: str, wanted: NewAddress
) -> AddressAssignment:
    """Give an app an address; the shared one it has once, however often it is asked for.

    Raises:
        Failure: `invalid_argument`; `failed_precondition` when the operator has named no such
            addresses, or a UDP port of the app is another's at the shared one;
            `insufficient_capacity` when none is left.
    """
    _check(wanted)
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        present = await rows.addresses.of_app(app.id)
        if wanted.type == "shared_v4":
            shared = next((one for one in present if one.type == "shared_v4"), None)
            if shared is not None:
                return shared
        if len(present) >= MOST:
            raise errors.invalid(
                f"app {app.name!r} has {len(present)} addresses, more are not given",
                hint="release one: `godwit ips release ADDRESS`",
            )
        row = AddressAssignment(
            id=ids.tagged("adr"),
            org_id=app.org_id,
            app_id=app.id,
            ip="",
            type=wanted.type,
            service_name=wanted.service_name,
            created_at_ms=ctx.clock.now_ms(),
        )
        if wanted.type == PRIVATE:
            network, slug = await _network(ctx, rows, who, app, wanted)
            first = not present and app.status == "pending"
            row = replace(row, network_org=slug, sole=first)
            row = await _within(rows, row, network)
        else:
            row = replace(row, ip=str(await _found(ctx, rows, wanted.type)))
        await rows.addresses.add(row)
        if row.type == "shared_v4":
            await shared_ports.take(ctx, rows, app, await shared_ports.configs(rows, app))
        await apps.tell(ctx, rows, app)
        await audit.record(rows, ctx.clock, who, "addresses.allocate", row.ip, **_about(app, row))
    ctx.facts_wanted.set()
    return row


async def release(ctx: Context, who: Principal, app_name: str, ip: str) -> None:
    """Take an address from an app; what has begun there goes on.

    Raises:
        Failure: `invalid_argument`, `not_found`.
    """
    try:
        meant = str(ip_address(ip))
    except ValueError as error:
        raise errors.invalid(f"{ip!r} is no IP address") from error
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        present = await rows.addresses.of_app(app.id)
        row = next((one for one in present if one.ip == meant), None)
        if row is None:
            raise errors.not_found(
                f"app {app.name!r} has no address {meant}",
                hint=f"list them with `godwit ips list --app {app.name}`",
            )
        await rows.addresses.remove(row.id)
        if row.type == "shared_v4":
            await rows.udp_claims.forget(app.id)
        await apps.tell(ctx, rows, app)
        await audit.record(rows, ctx.clock, who, "addresses.release", row.ip, **_about(app, row))
    ctx.facts_wanted.set()


def _check(wanted: NewAddress) -> None:
    if wanted.type in _NOT_THERE:
        raise errors.invalid(f"type: this platform has no {_NOT_THERE[wanted.type]} yet")
    if wanted.type not in ("v4", "v6", "shared_v4", PRIVATE):
        raise errors.invalid(
            f'type: expected v4, v6, shared_v4 or private_v6, got "{wanted.type}"'
        )
    if wanted.type == PRIVATE and wanted.network and not ids.is_slug(wanted.network):
        raise errors.invalid(f"network: {wanted.network!r} is not the name of a network")
    if wanted.region not in ("", "global"):
        raise errors.invalid(
            f"region: an address of {wanted.region!r} alone cannot be had",
            hint="leave the region out: every region answers on every address",
        )


async def _network(
    ctx: Context, rows: Rows, who: Principal, app: App, wanted: NewAddress
) -> tuple[Network, str]:
    """Return the network whose machines are to reach the app, and its organization's slug."""
    if not (wanted.org_slug or wanted.network):
        own = Network(app.network_id, app.network_number, app.org_id, app.network_name, 0)
        return own, app.org_slug
    slug = wanted.org_slug or app.org_slug
    # Its machines get a name and a way: that is the other organization's to allow.
    org = await organizations.require(rows, who, "apps:write", slug)
    return await apps.network_named(ctx, rows, org, wanted.network or "default"), slug


async def _within(rows: Rows, row: AddressAssignment, network: Network) -> AddressAssignment:
    """Return the assignment with a new address of a network."""
    count = await rows.networks.next_address(network.id)
    return replace(
        row,
        ip=str(app_address(network.number, count)),
        network_id=network.id,
        network_name=network.name,
    )


async def _found(ctx: Context, rows: Rows, kind: str) -> Address:
    """Return an address to give."""
    pools = ctx.options.addresses
    if kind == "shared_v4":
        if pools.shared_v4 is None:
            raise _none_named("shared_v4", "its apps answer under their names all the same")
        return pools.shared_v4
    pool = pools.v4 if kind == "v4" else pools.v6
    if not pool:
        raise _none_named(kind, f"the operator names some: `[addresses] {kind}` in the settings")
    if address_pools.is_small(pool):
        taken = {ip_address(one) for one in await rows.addresses.taken(kind)}
        if pools.shared_v4 is not None:
            taken.add(pools.shared_v4)
        free = address_pools.first_free(pool, taken)
        if free is not None:
            return free
    else:
        for one in address_pools.drawn(pool, random.SystemRandom()):
            if not await rows.addresses.is_taken(str(one)):
                return one
    raise errors.Failure(
        "insufficient_capacity",
        f"every public {kind} address of this platform is taken",
        hint="release one that is not needed, or ask the operator for more",
    )


def _none_named(kind: str, hint: str) -> errors.Failure:
    said = "shared IPv4 address" if kind == "shared_v4" else f"{kind} addresses for single apps"
    return errors.Failure("failed_precondition", f"this platform has no {said}", hint=hint)


def _about(app: App, row: AddressAssignment) -> dict[str, Any]:
    about = {"org_id": app.org_id, "app": app.name, "type": row.type}
    if row.network_name is not None:
        about["network"] = f"{row.network_org}/{row.network_name}"
    return about
