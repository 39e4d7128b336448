"""An app's log lines, read from the hosts its machines are or lately were on."""

import asyncio
from dataclasses import dataclass

from godwit.base import errors, ids
from godwit.base.principal import Principal
from godwit.control import apps, machines
from godwit.control.context import Context
from godwit.wire import host_rpc

_PAST_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Page:
    """Lines in order of time.

    Attributes:
        cursor: Nanoseconds; lines after it come next.
    """

    lines: list[host_rpc.LogEntry]
    cursor: int


@dataclass(frozen=True)
class Wanted:
    """Which lines; `after` 0 means the newest."""

    region: str | None = None
    machine_id: str | None = None
    after: int = 0
    limit: int = 100


async def page(ctx: Context, who: Principal, app_name: str, wanted: Wanted) -> Page:
    """Return the newest lines, or those after a cursor.

    Raises:
        Failure: `unavailable` when no host that has lines answers.
    """
    since_ms = ctx.clock.now_ms() - _PAST_MS
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "logs:read", app_name)
        host_ids = await rows.placements.hosts_of(app.id, since_ms)
    if wanted.machine_id is not None and not ids.is_machine_id(wanted.machine_id):
        raise errors.invalid("instance: is not a machine id")
    request = host_rpc.LogsRequest(
        app_id=app.id,
        machine_id=wanted.machine_id,
        after=wanted.after,
        limit=wanted.limit,
    )
    answers = await asyncio.gather(
        *(_read(ctx, who, host_id, request) for host_id in sorted(host_ids))
    )
    if host_ids and all(answer is None for answer in answers):
        raise errors.Failure("unavailable", f"no host with logs of app {app_name!r} answers")
    lines = [line for answer in answers for line in answer or ()]
    return _merge([line for line in lines if wanted.region in (None, line.region)], wanted)


async def _read(
    ctx: Context, who: Principal, host_id: str, request: host_rpc.LogsRequest
) -> tuple[host_rpc.LogEntry, ...] | None:
    try:
        body = await ctx.hosts.call(host_id, "logs.read", request, who, ctx.options.ask_s)
    except errors.Failure as failure:
        if failure.code in machines.SILENT:
            return None
        raise
    return host_rpc.LogsAnswer.model_validate(body).lines


def _merge(lines: list[host_rpc.LogEntry], wanted: Wanted) -> Page:
    """Return one page: the newest lines without a cursor, the next ones with it."""
    ordered = sorted(lines, key=lambda line: line.t)
    if not wanted.after:
        kept = ordered[-wanted.limit :]
    else:
        kept = ordered[: wanted.limit]
        # Lines of several machines may share a moment: a page never ends between them.
        kept += [line for line in ordered[wanted.limit :] if line.t == kept[-1].t]
    return Page(kept, kept[-1].t if kept else wanted.after)
