"""Lists of machines: of an app as hosts tell it, of an organization as control has heard.

Pages are read in the order of the database, then filtered: one may hold fewer than its limit.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import apps, machines, organizations
from godwit.control.context import Context
from godwit.control.machines import HostStatus, Machine
from godwit.control.records import Placement
from godwit.wire import host_rpc

Place = tuple[int, str]
"""Where a page begins: after a time in milliseconds, then after a machine's id."""

BEGINNING: Place = (-1, "")
MOST = 1_000
_AT_ONCE = 32


@dataclass(frozen=True)
class Filter:
    """Which machines are listed."""

    include_deleted: bool = False
    regions: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    metadata: tuple[tuple[str, str], ...] = ()

    def wants(self, view: host_rpc.MachineView) -> bool:
        """Tell whether a machine is listed."""
        if view.state == "destroyed" and not self.include_deleted:
            return False
        if self.regions and view.region not in self.regions:
            return False
        if self.states and view.state not in self.states:
            return False
        metadata = view.config.get("metadata") or {}
        return all(metadata.get(key) == value for key, value in self.metadata)


def parts(*lists: str) -> frozenset[str]:
    """Return what is in some comma lists."""
    return frozenset(part for one in lists for part in one.split(",") if part)


@dataclass(frozen=True)
class Page:
    """Some of an app's machines, oldest first; `next` is where the following page begins."""

    machines: list[Machine]
    next: Place | None


@dataclass(frozen=True)
class OrgMachine:
    """A machine of an organization, as it was last heard of."""

    app: str
    view: host_rpc.MachineView
    changed_at_ms: int


@dataclass(frozen=True)
class OrgPage:
    """Some of an organization's machines, by last change.

    Attributes:
        last: The newest change looked at; `None` when there was none.
        error_regions: Where a host is silent: what is shown of it may be old.
    """

    machines: list[OrgMachine]
    next: Place | None
    last: Place | None
    error_regions: list[str]


async def of_app(
    ctx: Context,
    who: Principal,
    app_name: str,
    only: Filter,
    *,
    after: Place = BEGINNING,
    limit: int = MOST,
) -> Page:
    """Return an app's machines, oldest first; a host is asked for several at once."""
    async with ctx.store.read() as rows:
        app = await apps.require_operable(rows, who, "machines:read", app_name)
        found = await rows.placements.of_app(
            app.id, destroyed=only.include_deleted, after=after, limit=limit + 1
        )
    shown, following = found[:limit], len(found) > limit
    asked: dict[str, list[str]] = {}
    for row in shown:
        if row.host_id and not row.destroyed_at_ms:
            asked.setdefault(row.host_id, []).append(row.machine_id)
    answers = await asyncio.gather(
        *(_ask_host(ctx, who, app.id, host, ids) for host, ids in asked.items())
    )
    silent = {host for host, answer in zip(asked, answers, strict=True) if answer is None}
    views = {view.machine_id: view for answer in answers for view in answer or ()}
    listed = [_told(app_name, row, views.get(row.machine_id), silent) for row in shown]
    return Page(
        [machine for machine in listed if only.wants(machine.view)],
        (shown[-1].created_at_ms, shown[-1].machine_id) if following else None,
    )


async def of_org(
    ctx: Context,
    who: Principal,
    slug: str,
    only: Filter,
    *,
    after: Place = BEGINNING,
    limit: int = MOST,
) -> OrgPage:
    """Return an organization's machines as control has heard of them, by last change."""
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "machines:read", slug)
        found = await rows.placements.of_org(
            org.id, destroyed=only.include_deleted, after=after, limit=limit + 1
        )
    shown = found[:limit]
    listed = [
        OrgMachine(app, machines.last_heard(app, row, "ok").view, row.changed_at_ms)
        for row, app in shown
    ]
    last = (shown[-1][0].changed_at_ms, shown[-1][0].machine_id) if shown else None
    silent = {row.region for row, _ in shown if row.host_id and ctx.liveness.silent(row.host_id)}
    return OrgPage(
        [one for one in listed if only.wants(one.view)],
        last if len(found) > limit else None,
        last,
        sorted(silent),
    )


def _told(
    app_name: str, row: Placement, view: host_rpc.MachineView | None, silent: set[str]
) -> Machine:
    if view is not None:
        shown = machines.doomed(row, view)
        return Machine(shown, "ok", destroyed=view.state == "destroyed")
    status: HostStatus = "ok" if row.destroyed_at_ms else "unknown"
    return machines.last_heard(app_name, row, "unreachable" if row.host_id in silent else status)


async def _ask_host(
    ctx: Context, who: Principal, app_id: str, host_id: str, machine_ids: Sequence[str]
) -> list[host_rpc.MachineView] | None:
    """Return a host's word on some machines, `None` when it is silent.

    An answer has to fit the bus: few are asked for at once, fewer when they are large.
    """
    views: list[host_rpc.MachineView] = []
    waiting = [machine_ids[at : at + _AT_ONCE] for at in range(0, len(machine_ids), _AT_ONCE)]
    while waiting:
        part = waiting.pop()
        body: dict[str, Any] = {"app_id": app_id, "machine_ids": list(part)}
        try:
            answer = await ctx.hosts.call(host_id, "machine.list", body, who, ctx.options.ask_s)
        except errors.Failure as failure:
            if failure.code in machines.SILENT:
                return None
            if failure.code != "internal" or len(part) == 1:
                raise
            middle = len(part) // 2
            waiting += [part[:middle], part[middle:]]
        else:
            views += [
                host_rpc.MachineView.model_validate(one) for one in answer.get("machines", ())
            ]
    return views
