"""Deploys as durable runs, and what was written down about them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from godwit.control.records import RunEntry, RunEntryKind, RunOutcome, RunRow
from godwit.store.rows.base import Rows
from godwit.store.tables import RUN_ENTRIES, RUNS

_UNFINISHED = RUNS.c.ended_at_ms.is_(None)


class RunTable(Rows):
    """See `control.rows.RunRows`."""

    async def add(self, row: RunRow) -> None:
        """Add one."""
        await self._insert(RUNS, row)

    async def get(self, run_id: str) -> RunRow | None:
        """Return one."""
        return await self._one(RUNS.select().where(RUNS.c.id == run_id), RunRow)

    async def unfinished_of(self, app_id: str) -> RunRow | None:
        """Return the one of an app that has not ended."""
        query = RUNS.select().where(RUNS.c.app_id == app_id, _UNFINISHED)
        return await self._one(query, RunRow)

    async def newest(self, app_id: str, limit: int) -> list[RunRow]:
        """Return an app's, the newest first."""
        query = RUNS.select().where(RUNS.c.app_id == app_id).order_by(RUNS.c.id.desc())
        return await self._all(query.limit(limit), RunRow)

    async def free(self, now_ms: int, limit: int) -> list[RunRow]:
        """Return unfinished runs that nobody carries now, the oldest first."""
        query = RUNS.select().where(_UNFINISHED, _nobodys(now_ms)).order_by(RUNS.c.id)
        return await self._all(query.limit(limit), RunRow)

    async def claim(self, row: RunRow, holder: str, now_ms: int, until_ms: int) -> bool:
        """Take one over under the next fence; tell whether nobody else did."""
        statement = RUNS.update().where(
            RUNS.c.id == row.id, RUNS.c.fence == row.fence, _UNFINISHED, _nobodys(now_ms)
        )
        taken = statement.values(fence=row.fence + 1, holder=holder, held_until_ms=until_ms)
        return await self._connection.change(taken) == 1

    async def hold(self, run_id: str, fence: int, until_ms: int) -> bool:
        """Go on holding one; tell whether it is still held under this fence and unfinished."""
        statement = RUNS.update().where(RUNS.c.id == run_id, RUNS.c.fence == fence, _UNFINISHED)
        return await self._connection.change(statement.values(held_until_ms=until_ms)) == 1

    async def let_go(self, run_id: str, fence: int) -> None:
        """Leave one to whoever comes next."""
        statement = RUNS.update().where(RUNS.c.id == run_id, RUNS.c.fence == fence)
        await self._connection.execute(statement.values(holder=None, held_until_ms=0))

    async def want_cancel(self, run_id: str) -> bool:
        """Have one cancelled; tell whether it was unfinished."""
        statement = RUNS.update().where(RUNS.c.id == run_id, _UNFINISHED)
        return await self._connection.change(statement.values(cancel_wanted=True)) == 1

    async def cancel_wanted(self, run_id: str) -> bool:
        """Tell whether one is to be cancelled."""
        query = sa.select(RUNS.c.cancel_wanted).where(RUNS.c.id == run_id)
        return bool(await self._scalar(query))

    async def turn(self, run_id: str, steps: Sequence[str]) -> None:
        """Change what is still to be done."""
        statement = RUNS.update().where(RUNS.c.id == run_id)
        await self._connection.execute(statement.values(steps=list(steps)))

    async def end(self, run_id: str, outcome: RunOutcome, message: str, at_ms: int) -> None:
        """Mark one as over."""
        statement = RUNS.update().where(RUNS.c.id == run_id)
        await self._connection.execute(
            statement.values(outcome=outcome, message=message, ended_at_ms=at_ms, holder=None)
        )

    async def add_entry(
        self, row: RunRow, step: str, kind: RunEntryKind, body: dict[str, Any], at_ms: int
    ) -> int:
        """Write something down about one; return its number."""
        query = sa.select(sa.func.max(RUN_ENTRIES.c.number)).where(RUN_ENTRIES.c.run_id == row.id)
        number = int(await self._scalar(query) or 0) + 1
        entry = RunEntry(row.id, number, row.org_id, step, kind, at_ms, body)
        await self._insert(RUN_ENTRIES, entry)
        return number

    async def entries(self, run_id: str, after: int, limit: int) -> list[RunEntry]:
        """Return what was written down after a number, in order."""
        table = RUN_ENTRIES
        query = table.select().where(table.c.run_id == run_id, table.c.number > after)
        return await self._all(query.order_by(table.c.number).limit(limit), RunEntry)

    async def forget(self, app_id: str, keep: int) -> None:
        """Remove the oldest ended ones of an app."""
        query = sa.select(RUNS.c.id).where(RUNS.c.app_id == app_id, ~_UNFINISHED)
        old = query.order_by(RUNS.c.id.desc()).offset(keep).limit(100)
        ids = [str(one) for one in (await self._connection.execute(old)).scalars()]
        if ids:
            entries = RUN_ENTRIES.delete().where(RUN_ENTRIES.c.run_id.in_(ids))
            await self._connection.execute(entries)
            await self._connection.execute(RUNS.delete().where(RUNS.c.id.in_(ids)))


def _nobodys(now_ms: int) -> sa.ColumnElement[bool]:
    return RUNS.c.holder.is_(None) | (RUNS.c.held_until_ms <= now_ms)
