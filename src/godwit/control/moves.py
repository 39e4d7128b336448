"""Moves: machines that somebody wants in another region, or on another host of their own.

    wanted ──the new one is well──► leaving ──the old one is gone──► moved
       └──cancelled──► what was made of the new one goes

Whoever asked may leave: control carries it out, and tries again what does not work for now. Once a
machine is leaving there is no way back.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Literal

from godwit.base import errors, log
from godwit.base.principal import Principal
from godwit.control import audit, machines, regions, relocation, sweeping
from godwit.control.context import Context
from godwit.control.records import App, Placement, RelocationRow

logger = logging.getLogger(__name__)

_EVERY_S = 2.0
_BATCH = 100
_AT_ONCE = 4


async def ask(
    ctx: Context, who: Principal, app_name: str, machine_id: str, region: str
) -> RelocationRow:
    """Have a machine move; returns before it does. Asked again, it is the same move.

    Args:
        ctx: What control knows.
        who: Who asks.
        app_name: Whose machine.
        machine_id: Which one.
        region: Where to; its own, or nothing, stands for another host there.

    Raises:
        Failure: `invalid_argument` for a region without hosts; `conflict` when it is on its way
            somewhere else or its host is drained; `failed_precondition` when it is not made yet.
    """
    async with ctx.store.write() as rows:
        app, row = await machines.locate(rows, who, "machines:write", app_name, machine_id)
        if row.destroyed_at_ms is not None or row.destroy_wanted:
            raise errors.not_found(f"machine {machine_id} is destroyed")
        if row.status != "accepted":
            raise errors.Failure("failed_precondition", f"machine {machine_id} has no host yet")
        host = await rows.hosts.get(machines.host_of(row))
        if host is not None and host.state == "draining":
            raise errors.Failure(
                "conflict",
                f"the host of machine {machine_id} is being drained: it goes to another one",
            )
        present = await rows.hosts.regions()
        wanted = regions.choose(region or row.region, present, row.region)[0]
        known = await rows.relocations.get(machine_id)
        if known is not None and known.state in {"wanted", "leaving"}:
            if known.region != wanted:
                raise errors.Failure(
                    "conflict",
                    f"machine {machine_id} is on its way to {known.region}",
                    hint=f"give that up first: `godwit machine move {machine_id} --cancel`",
                )
            return known
        move = RelocationRow(
            machine_id, app.org_id, app.id, wanted, who.subject, ctx.clock.now_ms()
        )
        await rows.relocations.put(move)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "machines.move_wanted",
            machine_id,
            org_id=app.org_id,
            app=app.name,
            region=wanted,
        )
    return move


async def show(ctx: Context, who: Principal, app_name: str, machine_id: str) -> RelocationRow:
    """Return a machine's latest move.

    Raises:
        Failure: `not_found` when nobody ever wanted it elsewhere.
    """
    async with ctx.store.read() as rows:
        await machines.locate(rows, who, "machines:read", app_name, machine_id)
        move = await rows.relocations.get(machine_id)
    if move is None:
        raise errors.not_found(f"machine {machine_id} is not wanted elsewhere")
    return move


async def cancel(ctx: Context, who: Principal, app_name: str, machine_id: str) -> None:
    """Leave a machine where it is; what was made to take its place goes.

    Raises:
        Failure: `not_found`; `conflict` when there is no way back any more.
    """
    async with ctx.store.write() as rows:
        app, _ = await machines.locate(rows, who, "machines:write", app_name, machine_id)
        move = await rows.relocations.get(machine_id)
        if move is None:
            raise errors.not_found(f"machine {machine_id} is not wanted elsewhere")
        if move.state not in {"wanted", "cancelled"}:
            raise errors.Failure(
                "conflict",
                f"machine {machine_id} has left: machine {move.moved_to} takes its place",
            )
        await rows.relocations.turn(move, "cancelled")
        await audit.record(
            rows,
            ctx.clock,
            who,
            "machines.move_cancelled",
            machine_id,
            org_id=app.org_id,
            app=app.name,
        )
    await relocation.give_up(ctx, app.name, machine_id)


class Moves:
    """Carries moves out."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run(self) -> None:
        """Sweep for ever."""
        await sweeping.for_ever(
            self._ctx.clock, self.sweep, every_s=_EVERY_S, later="moves go on later"
        )

    async def sweep(self) -> None:
        """Try every move once, a few at a time."""
        async with self._ctx.store.read() as rows:
            moves = await rows.relocations.unfinished(_BATCH)
        room = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._try(move, room) for move in moves))

    async def _try(self, move: RelocationRow, room: asyncio.Semaphore) -> None:
        async with room:
            try:
                await self._go_on(move)
            except errors.Failure as failure:
                logger.warning(
                    "machine %s stays where it is for now: %s", move.machine_id, failure.message
                )
                async with self._ctx.store.write() as rows:
                    now = await rows.relocations.get(move.machine_id)
                    if now is not None and now.state in {"wanted", "leaving"}:
                        await rows.relocations.turn(now, now.state, problem=failure.message)

    async def _go_on(self, move: RelocationRow) -> None:
        """Move a machine, or go on with it.

        Raises:
            Failure: It stays; the message says why.
        """
        async with self._ctx.store.read() as rows:
            app = await rows.apps.by_id(move.app_id)
            row = await rows.placements.get(move.machine_id)
        if app is None or row is None:
            return
        # In a task of its own: what is bound here ends with it.
        log.bind(**row.about)
        if row.destroyed_at_ms is not None or row.destroy_wanted:
            await self._finish_without(move, app)
            return

        async def leave(new_id: str) -> bool:
            async with self._ctx.store.write() as rows:
                if await rows.relocations.turn(move, "leaving", problem="", moved_to=new_id):
                    return True
                # Another replica may have been first, with this machine or with another one.
                now = await rows.relocations.get(move.machine_id)
                return now is not None and now.state != "cancelled" and now.moved_to == new_id

        new_id = await relocation.Relocation(
            self._ctx,
            row,
            region=move.region,
            avoiding=_own_host(row) if move.region == row.region else (),
            last_word=leave,
        ).carry_out()
        await self._turn(replace(move, state="leaving"), "moved")
        logger.info("machine %s took the place of %s", new_id, row.machine_id)

    async def _finish_without(self, move: RelocationRow, app: App) -> None:
        """End the move of a machine that is gone: by it, or because somebody destroyed it."""
        if move.state == "leaving":
            await self._turn(move, "moved")
            return
        await self._turn(move, "cancelled", problem="it was destroyed")
        await relocation.give_up(self._ctx, app.name, move.machine_id)

    async def _turn(
        self, move: RelocationRow, state: Literal["moved", "cancelled"], **changed: str
    ) -> None:
        async with self._ctx.store.write() as rows:
            await rows.relocations.turn(move, state, **changed)


def _own_host(row: Placement) -> tuple[str, ...]:
    return (row.host_id,) if row.host_id is not None else ()
