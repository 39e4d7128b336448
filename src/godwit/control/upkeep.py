"""Finishes what was left: offers nobody took, machines that are to be gone, ports nobody wants.

Bounded work at intervals, and at once when `upkeep_wanted` is set. Every step may run again.

    offered, older than 2 minutes ──► abandoned (control ended between offer and answer)
    abandoned, or to be destroyed  ──► its host destroys it ──► forgotten, or noted as destroyed
"""

import asyncio
import contextlib
import logging

from godwit.base import errors, log, principal
from godwit.control import shared_ports
from godwit.control.context import Context
from godwit.control.records import Placement

logger = logging.getLogger(__name__)

_EVERY_S = 10.0
_BATCH = 50
_STALE_MS = 120_000
_FORGET_MS = 600_000
_TRY_AGAIN_MS = 10_000
_ME = principal.component("control")


class Upkeep:
    """Sweeps at intervals."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            self._ctx.upkeep_wanted.clear()
            try:
                await self.sweep()
            except errors.Failure as failure:
                logger.warning("upkeep goes on later: %s", failure.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._ctx.upkeep_wanted.wait()

    async def sweep(self) -> None:
        """Do what is due now, at most a batch of each kind."""
        now_ms = self._ctx.clock.now_ms()
        async with self._ctx.store.write() as rows:
            for row in await rows.placements.stale_offers(now_ms - _STALE_MS, _BATCH):
                if await rows.placements.abandon(row.machine_id):
                    with log.bound(**row.about):
                        logger.info("nobody took machine %s: it is withdrawn", row.machine_id)
        async with self._ctx.store.read() as rows:
            unwanted = await rows.placements.unwanted(now_ms - _TRY_AGAIN_MS, _BATCH)
        await asyncio.gather(*(self._destroy(row) for row in unwanted))
        await shared_ports.release_unwanted(self._ctx)

    async def _destroy(self, row: Placement) -> None:
        # In a task of its own: what is bound here ends with it.
        log.bind(**row.about)
        if row.status == "offered":
            # Its creation is under way; it is destroyed when that has ended.
            async with self._ctx.store.write() as rows:
                await rows.placements.touch(row.machine_id, self._ctx.clock.now_ms())
            return
        gone = row.host_id is None
        if row.host_id is not None:
            gone = await self._asked_to_destroy(row, row.host_id)
        now_ms = self._ctx.clock.now_ms()
        async with self._ctx.store.write() as rows:
            if row.status == "accepted":
                if gone:
                    await rows.placements.mark_destroyed(row.machine_id, now_ms)
                else:
                    await rows.placements.touch(row.machine_id, now_ms)
            elif gone and (row.host_id is None or now_ms - row.created_at_ms > _FORGET_MS):
                await rows.placements.remove(row.machine_id)
            else:
                # A reserve may still be on its way: asked again until it no longer can be.
                await rows.placements.touch(row.machine_id, now_ms)

    async def _asked_to_destroy(self, row: Placement, host_id: str) -> bool:
        """Ask the host; return whether it has the machine no more."""
        asked = {"machine_id": row.machine_id}
        try:
            await self._ctx.hosts.call(
                host_id, "machine.destroy", {**asked, "force": True}, _ME, self._ctx.options.act_s
            )
            body = await self._ctx.hosts.call(
                host_id, "machine.get", asked, _ME, self._ctx.options.ask_s
            )
        except errors.Failure as failure:
            if failure.code == "not_found":
                return True
            logger.info("machine %s is destroyed later: %s", row.machine_id, failure.message)
            return False
        return bool(body.get("state") == "destroyed")
