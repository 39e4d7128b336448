"""UDP ports at the address that apps share: each is one app's, the first that asked for it.

A datagram names no app, so there the port alone has to tell. An app that has the shared address
has all external UDP ports of its services there, or what would give it another one is refused.
They are claimed in the transaction that makes a machine, gives it a config, begins a deploy or
allocates the address; one writer works at a time, and the table has each port once. Upkeep takes
back what no machine of the app has had for a while. Called by `addresses`, `machines`, `deploys`
and `upkeep`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from godwit.base import errors
from godwit.control import apps
from godwit.control.context import Context
from godwit.control.records import App, UdpClaim
from godwit.control.rows import Rows

MOST = 64
"""UDP ports of one app at the shared address."""
KEPT_MS = 600_000
"""A port stays an app's for so long after its last service there: machines are made anew."""
_LOOK_MS = 60_000
_APPS = 50
_PAGE = 200

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Missing:
    """The ports that an app wants at the shared address and has not yet, and all that it wants."""

    ip: str
    ports: frozenset[int]
    wanted: frozenset[int]


def udp_ports(configs: Iterable[Config]) -> frozenset[int]:
    """Return the external UDP ports of machines' services; of a long range as many as matter."""
    found: set[int] = set()
    for config in configs:
        for service in config.get("services") or ():
            if service.get("protocol") != "udp":
                continue
            for port in service.get("ports") or ():
                first = int(port.get("port") or port["start_port"])
                last = int(port.get("port") or port["end_port"])
                found.update(range(first, min(last, first + MOST) + 1))
    return frozenset(found)


async def missing(rows: Rows, app: App, made: Iterable[Config]) -> Missing | None:
    """Return what an app lacks to have machines of these configs; `None` without shared address.

    Raises:
        Failure: `failed_precondition` when one of the ports is another app's, or there are too
            many.
    """
    wanted = udp_ports(made)
    if not wanted:
        return None
    present = await rows.addresses.of_app(app.id)
    ip = next((one.ip for one in present if one.type == "shared_v4"), None)
    if ip is None:
        return None
    own = {one.port for one in await rows.udp_claims.of_app(app.id)}
    if len(own | wanted) > MOST:
        raise errors.Failure(
            "failed_precondition",
            f"app {app.name!r} may have {MOST} UDP ports at the shared address {ip}, not"
            f" {len(own | wanted)}",
            hint=_hint(app, ip, "fewer ports"),
        )
    new = wanted - own
    if others := await rows.udp_claims.at(ip, new):
        ports = ", ".join(str(one.port) for one in others)
        raise errors.Failure(
            "failed_precondition",
            f"UDP port {ports} of the shared address {ip} is another app's",
            hint=_hint(app, ip, "another port"),
        )
    return Missing(ip, new, wanted)


async def take(ctx: Context, rows: Rows, app: App, made: Iterable[Config]) -> bool:
    """Give an app the ports that machines of these configs have; tell whether any is new to it.

    Raises:
        Failure: As `missing`.
    """
    found = await missing(rows, app, made)
    if found is None:
        return False
    now_ms = ctx.clock.now_ms()
    await rows.udp_claims.renew(app.id, found.wanted, now_ms)
    for port in sorted(found.ports):
        await rows.udp_claims.add(UdpClaim(found.ip, port, app.org_id, app.id, now_ms))
    return bool(found.ports)


async def claim(ctx: Context, rows: Rows, app: App, made: Iterable[Config]) -> bool:
    """As `take`, and have edges told: `facts_wanted` is the caller's, once that is committed.

    Raises:
        Failure: As `missing`.
    """
    new = await take(ctx, rows, app, made)
    if new:
        await apps.tell(ctx, rows, app)
    return new


async def configs(rows: Rows, app: App) -> list[Config]:
    """Return the configs of an app's machines, as far as control has seen them."""
    found: list[Config] = []
    after = (0, "")
    while True:
        page = await rows.placements.of_app(app.id, destroyed=False, after=after, limit=_PAGE)
        found += [row.view["config"] for row in page if row.view and not row.destroy_wanted]
        if len(page) < _PAGE:
            return found
        after = (page[-1].created_at_ms, page[-1].machine_id)


async def release_unwanted(ctx: Context) -> None:
    """Take ports back that their apps have had no service at for a while, of some apps."""
    async with ctx.store.read() as rows:
        due = await rows.udp_claims.due(ctx.clock.now_ms() - _LOOK_MS, _APPS)
    for app_id in due:
        async with ctx.store.write() as rows:
            app = await rows.apps.by_id(app_id)
            released = app is not None and await _review(ctx, rows, app)
        if released:
            ctx.facts_wanted.set()


async def _review(ctx: Context, rows: Rows, app: App) -> bool:
    claims = await rows.udp_claims.of_app(app.id)
    ports: Collection[int] = {one.port for one in claims}
    now_ms = ctx.clock.now_ms()
    if await rows.runs.unfinished_of(app.id) is None:
        ports = udp_ports(await configs(rows, app))
    await rows.udp_claims.renew(app.id, ports, now_ms)
    old = now_ms - KEPT_MS
    gone = [one.port for one in claims if one.port not in ports and one.wanted_at_ms <= old]
    if gone:
        await rows.udp_claims.remove(app.id, gone)
        await apps.tell(ctx, rows, app)
    return bool(gone)


def _hint(app: App, ip: str, instead: str) -> str:
    return (
        f"use {instead}, or have an address of its own take them: `godwit ips release {ip} --app"
        f" {app.name}`, then `godwit ips allocate-v4 --app {app.name}`"
    )
