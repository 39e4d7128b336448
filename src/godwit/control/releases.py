"""Releases: one per deploy, numbered from 1 within their app."""

from dataclasses import dataclass, field, replace
from typing import Any

from godwit.appconfig import raw
from godwit.base import errors, ids
from godwit.base.principal import Principal
from godwit.control import apps, audit, machine_images
from godwit.control.context import Context
from godwit.control.records import App, Placement, Release, ReleaseStatus
from godwit.control.rows import Rows

_MOST_MACHINES = 1_000


@dataclass(frozen=True)
class NewRelease:
    """What a deploy is about to do."""

    image_ref: str
    config: dict[str, Any] = field(default_factory=dict)
    strategy: str = ""
    description: str = ""


async def newest(ctx: Context, who: Principal, app_name: str, *, limit: int) -> list[Release]:
    """Return an app's releases, newest first."""
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "apps:read", app_name)
        return await rows.releases.newest(app.id, limit)


async def get(ctx: Context, who: Principal, app_name: str, id_or_version: str) -> Release:
    """Return one release, by its id or its number.

    Raises:
        Failure: `not_found`.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "apps:read", app_name)
        return await _find(rows, app, id_or_version)


async def machines(ctx: Context, who: Principal, app_name: str, release: Release) -> list[str]:
    """Return the ids of the machines that were given a release last, as control has heard."""
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "apps:read", app_name)
        found = await rows.placements.of_app(
            app.id, destroyed=False, after=(-1, ""), limit=_MOST_MACHINES
        )
    return [row.machine_id for row in found if _runs(row, release)]


async def create(ctx: Context, who: Principal, app_name: str, wanted: NewRelease) -> Release:
    """Record that a deploy begins; the app counts as deployed from its first."""
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        release = Release(
            id=ids.tagged("rel"),
            org_id=app.org_id,
            app_id=app.id,
            version=await rows.releases.last_version(app.id) + 1,
            image_ref=wanted.image_ref,
            further_images=machine_images.further(raw.of_document(wanted.config)),
            config=wanted.config,
            status="running",
            strategy=wanted.strategy,
            description=wanted.description,
            error="",
            user=who.subject,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        await rows.releases.add(release)
        await apps.mark_deployed(rows, app)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "releases.create",
            release.id,
            org_id=app.org_id,
            app=app.name,
            version=release.version,
            image_ref=release.image_ref,
        )
    return release


async def set_status(
    ctx: Context,
    who: Principal,
    app_name: str,
    id_or_version: str,
    *,
    status: ReleaseStatus,
    error: str = "",
) -> Release:
    """Record how a deploy stands or ended.

    Raises:
        Failure: `not_found`.
    """
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        release = await _find(rows, app, id_or_version)
        await rows.releases.set_status(release.id, status, error, now_ms)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "releases.update",
            release.id,
            org_id=app.org_id,
            app=app.name,
            status=status,
        )
    return replace(release, status=status, error=error, updated_at_ms=now_ms)


async def _find(rows: Rows, app: App, id_or_version: str) -> Release:
    release = await rows.releases.find(app.id, id_or_version)
    if release is None:
        raise errors.not_found(f"app {app.name!r} has no release {id_or_version!r}")
    return release


def _runs(row: Placement, release: Release) -> bool:
    config = (row.view or {}).get("config") or {}
    return bool((config.get("metadata") or {}).get("fly_release_id") == release.id)
