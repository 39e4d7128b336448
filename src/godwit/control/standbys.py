"""Standbys: machines that start when the host of the machine they watch is gone.

    armed ──host gone, its machine was running──► called ──told to start──► started
      ▲                                              └────────host is back────────┘
      └──────────────────────────────────────────────────────────────────────────┘

Each is called once for each time a host goes, by whichever control replica notices first: the
mark and the audit row are one transaction, and what was called is asked to start until its own
host has heard. One that was started runs on when the other is back: its user decides which stays.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from godwit.base import errors, principal
from godwit.control import audit, machines, sweeping
from godwit.control.context import Context
from godwit.control.records import CalledStandby, Host, Standby

logger = logging.getLogger(__name__)

RESTING = ("stopped", "suspended", "failed", "destroyed")
"""A machine that rests is missed by nobody."""

_EVERY_S = 10.0
_ANSWER_S = 3.0
_AT_ONCE = 64
_BATCH = 200
_ME = principal.component("control")


class Standbys:
    """Listens for hosts, and starts what stands by for them."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run(self) -> None:
        """Sweep for ever."""
        await sweeping.for_ever(
            self._ctx.clock, self.sweep, every_s=_EVERY_S, later="standbys are looked after later"
        )

    async def sweep(self) -> None:
        """Ask every host whether it is there, and do what follows."""
        await self._listen()
        gone = self._ctx.liveness.gone(self._ctx.clock.monotonic(), self._ctx.options.host_gone_s)
        for host_id in gone:
            await self._call(host_id)
        async for called in self._called():
            await self._look_after(called)

    async def _listen(self) -> None:
        async with self._ctx.store.read() as rows:
            known = await rows.hosts.all()
        room = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(*(self._answers(host, room) for host in known))
        answered = [host.id for host, there in zip(known, answers, strict=True) if there]
        asked = [host.id for host in known]
        self._ctx.liveness.observe(asked, answered, self._ctx.clock.monotonic())

    async def _answers(self, host: Host, room: asyncio.Semaphore) -> bool:
        nothing = {"app_id": "", "machine_ids": []}
        async with room:
            try:
                await self._ctx.hosts.call(host.id, "machine.list", nothing, _ME, _ANSWER_S)
            except errors.Failure as failure:
                return failure.code not in machines.SILENT
        return True

    async def _call(self, host_id: str) -> None:
        """Mark what stands by for the machines of a host that is gone."""
        while True:
            async with self._ctx.store.read() as rows:
                due = await rows.standbys.due(host_id, RESTING, _BATCH)
            if not due:
                return
            async with self._ctx.store.write() as rows:
                for row in due:
                    if not await rows.standbys.call(row, self._ctx.clock.now_ms()):
                        continue
                    logger.warning(
                        "host %s is gone: machine %s starts for %s",
                        host_id,
                        row.machine_id,
                        row.watched_id,
                    )
                    await audit.record(
                        rows,
                        self._ctx.clock,
                        _ME,
                        "machines.standby",
                        row.machine_id,
                        org_id=row.org_id,
                        watched=row.watched_id,
                        host=host_id,
                    )

    async def _called(self) -> AsyncIterator[CalledStandby]:
        after = ("", "")
        while True:
            async with self._ctx.store.read() as rows:
                page = await rows.standbys.called(after, _BATCH)
            for called in page:
                yield called
                after = (called.row.machine_id, called.row.watched_id)
            if len(page) < _BATCH:
                return

    async def _look_after(self, called: CalledStandby) -> None:
        watched = called.watched_host_id
        if watched is not None and not self._ctx.liveness.silent(watched):
            async with self._ctx.store.write() as rows:
                await rows.standbys.release(called.row)
        elif called.row.started_at_ms is None and called.host_id is not None:
            await self._start(called.row, called.host_id)

    async def _start(self, row: Standby, host_id: str) -> None:
        asked = {"machine_id": row.machine_id}
        try:
            await self._ctx.hosts.call(
                host_id, "machine.start", asked, _ME, self._ctx.options.act_s
            )
        except errors.Failure as failure:
            logger.warning("standby %s is started later: %s", row.machine_id, failure.message)
            if failure.code != "not_found":
                return
        async with self._ctx.store.write() as rows:
            await rows.standbys.started(row, self._ctx.clock.now_ms())
