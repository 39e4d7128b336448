"""Empties hosts that are being drained: each machine goes to another host of its region.

A machine whose app is being deployed waits for that; one that fits nowhere, or whose new one does
not come up, stays where it is and is tried again. Nothing is moved while the host does not answer.
"""

import asyncio
import logging

from godwit.base import errors, log
from godwit.control import sweeping
from godwit.control.context import Context
from godwit.control.records import Host, Placement
from godwit.control.relocation import Relocation

logger = logging.getLogger(__name__)

_EVERY_S = 5.0
_BATCH = 50
_AT_ONCE = 4
_GONE = frozenset({"destroyed", "destroying"})


class Evacuation:
    """Moves machines away from draining hosts."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run(self) -> None:
        """Sweep for ever."""
        await sweeping.for_ever(
            self._ctx.clock, self.sweep, every_s=_EVERY_S, later="draining goes on later"
        )

    async def sweep(self) -> None:
        """Try every machine of every draining host once, a few at a time."""
        async with self._ctx.store.read() as rows:
            hosts = [host for host in await rows.hosts.all() if host.state == "draining"]
        for host in hosts:
            await self._empty(host)

    async def _empty(self, host: Host) -> None:
        after = ""
        room = asyncio.Semaphore(_AT_ONCE)
        while True:
            async with self._ctx.store.read() as rows:
                page = await rows.placements.on_host(host.id, after, _BATCH)
            await asyncio.gather(*(self._try(host, row, room) for row in page))
            if len(page) < _BATCH:
                return
            after = page[-1].machine_id

    async def _try(self, host: Host, row: Placement, room: asyncio.Semaphore) -> None:
        # In a task of its own: what is bound here ends with it.
        log.bind(**row.about)
        async with room:
            try:
                await self._move(host, row)
            except errors.Failure as failure:
                logger.warning(
                    "machine %s stays on host %s for now: %s",
                    row.machine_id,
                    host.id,
                    failure.message,
                )

    async def _move(self, host: Host, row: Placement) -> None:
        """Move a machine, or go on with it.

        Raises:
            Failure: It stays; the message says why.
        """
        async with self._ctx.store.read() as rows:
            app = await rows.apps.by_id(row.app_id)
            wanted = await rows.relocations.get(row.machine_id)
        if app is None or app.deleted_at_ms is not None or row.destroy_wanted:
            return
        if row.status != "accepted" or row.state in _GONE or not await self._draining(host):
            return
        if wanted is not None and wanted.state in {"wanted", "leaving"}:
            raise errors.Failure("conflict", f"it is on its way to {wanted.region}")

        async def still_draining(_: str) -> bool:
            return await self._draining(host)

        new_id = await Relocation(
            self._ctx, row, region=row.region, last_word=still_draining
        ).carry_out()
        logger.info("machine %s took the place of %s", new_id, row.machine_id)

    async def _draining(self, host: Host) -> bool:
        async with self._ctx.store.read() as rows:
            now = await rows.hosts.get(host.id)
        return now is not None and now.state == "draining"
