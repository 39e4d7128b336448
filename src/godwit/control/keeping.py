"""Bounds what would grow for ever: audit rows, destroyed machines, tombstones, the registry.

Works in small batches at long intervals; everything may be cut off at any moment and is simply
done again. What goes and why is in `registry_plan` and in the settings `keep`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

from godwit.base import errors, ids, principal
from godwit.bus.facts import TOMBSTONE_S
from godwit.control import audit, machine_images, registry_plan
from godwit.control.context import BUILDS_AT_ONCE, Context
from godwit.control.pins import Pins
from godwit.images.registry_disk import Contents, Pushed

logger = logging.getLogger(__name__)

_ME = principal.component("control")
_TICK_S = 60.0
_BATCH = 500
_MOST_BATCHES = 20
_HOUR_MS = 3_600_000
_REGISTRY_EVERY_MS = 6 * _HOUR_MS
_TOMBSTONES_EVERY_MS = 24 * _HOUR_MS
_QUIET_MS = 600_000
"""The registry is left alone so long after the last write: a push may be going on."""
_SLOT_S = 30.0
_MOST_IMAGES = 500
_WORTH_BYTES = 64 * 1024**2


class Graves(Protocol):
    """The catalog's stream, as far as old tombstones go."""

    async def bury(self, before: datetime) -> int:
        """Remove tombstones of machines that were published before a time."""


class Keeping:
    """The chores, each with its interval."""

    def __init__(self, ctx: Context, graves: Graves) -> None:
        self._ctx = ctx
        self._graves = graves
        self._pins = Pins(ctx)
        now_ms = ctx.clock.now_ms()
        # Nothing heavy at the very start, when everybody comes back at once.
        self._registry_due_ms = now_ms + _QUIET_MS
        self._tombstones_due_ms = now_ms

    async def run(self) -> None:
        """Keep things bounded for ever."""
        await self._cautiously("the registry's recovery", self._ctx.warehouse.recover)
        while True:
            await self.tick()
            await self._ctx.clock.sleep(_TICK_S)

    async def tick(self) -> None:
        """Do what is due."""
        await self._cautiously("pins", self._pins.tell)
        await self._cautiously("old rows", self.forget)
        now_ms = self._ctx.clock.now_ms()
        if now_ms >= self._tombstones_due_ms and await self._cautiously(
            "old tombstones", self.bury
        ):
            self._tombstones_due_ms = now_ms + _TOMBSTONES_EVERY_MS
        if now_ms >= self._registry_due_ms:
            # One that was not possible now is tried again in an hour.
            self._registry_due_ms = now_ms + _HOUR_MS
            if await self._cautiously("the registry's images", self.collect):
                self._registry_due_ms = now_ms + _REGISTRY_EVERY_MS

    async def _cautiously(self, what: str, doing: Callable[[], Awaitable[object]]) -> bool:
        try:
            await doing()
        except (errors.Failure, OSError) as error:
            logger.warning("%s: later: %s", what, error)
            return False
        return True

    async def forget(self) -> None:
        """Remove audit rows and destroyed machines that are old enough."""
        options, now_ms = self._ctx.options, self._ctx.clock.now_ms()
        oldest = f"aud_{ids.ulid(now_ms - options.audit_ms)[:10].lower()}"
        for _ in range(_MOST_BATCHES):
            async with self._ctx.store.write() as rows:
                gone = await rows.audit.forget(oldest, _BATCH)
                before_ms = now_ms - options.machines_ms
                gone += await rows.placements.forget_destroyed(before_ms, _BATCH)
            if not gone:
                return

    async def bury(self) -> None:
        """Remove tombstones that an earlier release left in the catalog for ever."""
        before_ms = self._ctx.clock.now_ms() - TOMBSTONE_S * 1_000
        gone = await self._graves.bury(datetime.fromtimestamp(before_ms / 1_000, UTC))
        if gone:
            logger.info("%d old tombstones are removed from the catalog", gone)

    async def collect(self) -> None:
        """Take out of the registry what nothing needs, if that is worth its while.

        Raises:
            Failure: `unavailable` while pushes or builds go on.
        """
        there = await self._ctx.warehouse.contents()
        goes = await self._plan(there)
        if not goes and there.orphan_bytes < _WORTH_BYTES:
            return
        async with self._no_builds():
            if self._ctx.clock.now_ms() - there.written_at_ms < _QUIET_MS:
                raise errors.Failure("unavailable", "somebody pushes to the registry")
            needed = await self._needed()
            goes = self._chosen(there, needed)
            await self._ctx.warehouse.collect(goes, needed.apps)
        async with self._ctx.store.write() as rows:
            await audit.record(
                rows,
                self._ctx.clock,
                _ME,
                "registry.collect",
                self._ctx.options.registry,
                org_id=None,
                images=len(goes),
                orphan_bytes=there.orphan_bytes,
            )
        logger.info("%d images are taken out of the registry", len(goes))

    async def _plan(self, there: Contents) -> tuple[Pushed, ...]:
        return self._chosen(there, await self._needed())

    def _chosen(self, there: Contents, needed: registry_plan.Needed) -> tuple[Pushed, ...]:
        young_from_ms = self._ctx.clock.now_ms() - self._ctx.options.pushed_ms
        return registry_plan.plan(there.images, needed, young_from_ms=young_from_ms)[:_MOST_IMAGES]

    @contextlib.asynccontextmanager
    async def _no_builds(self) -> AsyncIterator[None]:
        """Hold every build slot: builds wait meanwhile, and none is about to push.

        Raises:
            Failure: `unavailable` when builds go on.
        """
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(_SLOT_S):
                    for _ in range(BUILDS_AT_ONCE):
                        await held.enter_async_context(self._ctx.build_slots)
            except TimeoutError as error:
                raise errors.Failure("unavailable", "builds go on") from error
            yield

    async def _needed(self) -> registry_plan.Needed:
        """Return what releases and machines need of the registry."""
        needed = registry_plan.Gathering(self._ctx.options.registry)
        after = ""
        while True:
            async with self._ctx.store.read() as rows:
                apps = await rows.apps.newest_facts(after, _BATCH)
                living = [app for app in apps if app.deleted_at_ms is None]
                images = await rows.releases.images(
                    [app.id for app in living], self._ctx.options.kept_releases
                )
            for app in living:
                needed.app(app.name)
            for text in images:
                needed.reference(text)
            if len(apps) < _BATCH:
                break
            after = apps[-1].id
        await self._needed_by_machines(needed)
        return needed.done()

    async def _needed_by_machines(self, needed: registry_plan.Gathering) -> None:
        after = ""
        while True:
            async with self._ctx.store.read() as rows:
                page = await rows.placements.alive(after, _BATCH)
            for row in page:
                image = (row.view or {}).get("image") or {}
                if image.get("digest"):
                    needed.digest(image["digest"])
                config = (row.view or {}).get("config") or {}
                for reference in (image.get("reference"), *machine_images.further(config)):
                    needed.reference(reference or "")
            if len(page) < _BATCH:
                return
            after = page[-1].machine_id
