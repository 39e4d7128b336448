"""Follows the catalog: what hosts say of their machines becomes control's view of them.

Also notices three doubts. A fact of control's own that is newer than the database means that the
database was restored from a copy: a new epoch begins and everything is published again. A
machine that no row knows, in an app that is known, is taken into the books: it exists, and only
its user may say that it should not. One that another host has, or that was destroyed, is a stray
(`strays`) and not believed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from godwit.base import errors, log
from godwit.control import machines
from godwit.control.context import Context
from godwit.control.ports import Facts
from godwit.control.records import MachineChange, Placement
from godwit.control.rows import Rows
from godwit.control.strays import Strays, is_one
from godwit.wire import facts

logger = logging.getLogger(__name__)

KINDS = ("app", "member", "host", "machine")
_BATCH = 200
_GATHER_S = 0.05
_QUEUE = 2_000


class Watcher:
    """Applies the facts of all regions to the database, in batches.

    Args:
        republish: Called when every region is to be told everything again.
        strays: Told of machines that a host should not have.
    """

    def __init__(self, ctx: Context, republish: Callable[[], None], strays: Strays) -> None:
        self._ctx = ctx
        self._republish = republish
        self._strays = strays
        self._queue: asyncio.Queue[facts.Fact] = asyncio.Queue(_QUEUE)

    async def read(self, stream: Facts) -> None:
        """Read a region's facts for ever; a full queue slows the reading."""
        watched: AsyncIterator[facts.Fact] = stream.watch(KINDS)
        async for fact in watched:
            await self._queue.put(fact)

    async def apply(self) -> None:
        """Apply what was read for ever."""
        while True:
            batch = [await self._queue.get()]
            await self._ctx.clock.sleep(_GATHER_S)
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            while True:
                try:
                    await self.apply_batch(batch)
                    break
                except errors.Failure as failure:
                    logger.warning("facts are applied later: %s", failure.message)
                    await self._ctx.clock.sleep(1.0)

    async def apply_batch(self, batch: list[facts.Fact]) -> None:
        """Apply some facts in one transaction, then fetch the last word of what is gone."""
        now_ms = self._ctx.clock.now_ms()
        changes, gone = [], []
        async with self._ctx.store.write() as rows:
            removed = await rows.hosts.removed(
                {one.host_id for one in batch if isinstance(one, facts.MachineFact)}
            )
            for fact in batch:
                if isinstance(fact, facts.MachineFact) and fact.host_id in removed:
                    # Its machines were given up: nothing it says brings one back.
                    continue
                if isinstance(fact, facts.AppFact | facts.MemberFact):
                    await self._compare(rows, fact)
                elif isinstance(fact, facts.HostFact):
                    await rows.hosts.seen(fact.host_id, now_ms)
                else:
                    row = await rows.placements.get(fact.machine_id)
                    if row is None:
                        await self._adopt(rows, fact, now_ms)
                    elif is_one(fact, row):
                        self._strays.note(fact)
                        continue
                    elif _destroyed(fact) and row.destroyed_at_ms is None:
                        gone.append(row.machine_id)
                    changes.append(_change(fact))
            await rows.placements.apply(changes, now_ms)
        for machine_id in gone:
            # Its final view, the last events included.
            await machines.refresh(self._ctx, machine_id)

    async def _compare(self, rows: Rows, fact: facts.AppFact | facts.MemberFact) -> None:
        """Begin a new epoch when the catalog knows more of our own facts than we do."""
        meta = await rows.meta.get()
        if (fact.epoch, fact.revision) > (meta.epoch, meta.revision):
            logger.warning("this database is older than the catalog: a new epoch begins")
            await rows.meta.start_epoch(max(fact.epoch, meta.epoch) + 1)
            self._republish()

    async def _adopt(self, rows: Rows, fact: facts.MachineFact, now_ms: int) -> None:
        app = await rows.apps.by_id(fact.app_id)
        if (
            app is None
            or _destroyed(fact)
            or (app.org_id, app.network_id)
            != (
                fact.org_id,
                fact.network_id,
            )
        ):
            return
        taken = await rows.placements.alive_by_name(app.id, fact.name)
        with log.bound(org_id=app.org_id, network_id=app.network_id, machine_id=fact.machine_id):
            logger.warning(
                "machine %s of app %s is taken into the books", fact.machine_id, app.name
            )
        await rows.placements.add(
            Placement(
                machine_id=fact.machine_id,
                org_id=app.org_id,
                network_id=app.network_id,
                app_id=app.id,
                name=fact.name if taken is None else f"{fact.name}-{fact.machine_id[:4]}"[:63],
                region=fact.region,
                host_id=fact.host_id,
                status="accepted",
                instance_id=fact.instance_id,
                state=fact.state,
                epoch=0,
                revision=0,
                view=None,
                destroy_wanted=app.deleted_at_ms is not None,
                created_at_ms=now_ms,
                updated_at_ms=now_ms,
                changed_at_ms=now_ms,
            )
        )


def _destroyed(fact: facts.MachineFact) -> bool:
    return fact.deleted or fact.state == "destroyed"


def _change(fact: facts.MachineFact) -> MachineChange:
    return MachineChange(
        machine_id=fact.machine_id,
        host_id=fact.host_id,
        instance_id=fact.instance_id,
        state="destroyed" if fact.deleted else fact.state,
        epoch=fact.epoch,
        revision=fact.revision,
        destroyed=_destroyed(fact),
    )
