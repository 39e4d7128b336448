"""Machines that somebody wants elsewhere."""

import sqlalchemy as sa

from godwit.control.records import RelocationRow, RelocationState
from godwit.store.rows.base import Rows
from godwit.store.tables import RELOCATIONS

_UNFINISHED = RELOCATIONS.c.state.in_(("wanted", "leaving"))


class RelocationTable(Rows):
    """See `control.machine_rows.RelocationRows`."""

    async def put(self, row: RelocationRow) -> None:
        """Keep one in the place of what there was of that machine."""
        await self._connection.execute(RELOCATIONS.delete().where(_of(row.machine_id)))
        await self._insert(RELOCATIONS, row)

    async def get(self, machine_id: str) -> RelocationRow | None:
        """Return one."""
        return await self._one(RELOCATIONS.select().where(_of(machine_id)), RelocationRow)

    async def unfinished(self, limit: int) -> list[RelocationRow]:
        """Return those that are to be carried out, the oldest first."""
        query = RELOCATIONS.select().where(_UNFINISHED)
        ordered = query.order_by(RELOCATIONS.c.asked_at_ms, RELOCATIONS.c.machine_id)
        return await self._all(ordered.limit(limit), RelocationRow)

    async def turn(self, row: RelocationRow, state: RelocationState, **changed: str) -> bool:
        """Change one if its state is still what it was; tell whether it was."""
        statement = RELOCATIONS.update().where(
            _of(row.machine_id), RELOCATIONS.c.state == row.state
        )
        return await self._connection.change(statement.values(state=state, **changed)) == 1


def _of(machine_id: str) -> sa.ColumnElement[bool]:
    return RELOCATIONS.c.machine_id == machine_id
