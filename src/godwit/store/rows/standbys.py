"""Which machine stands by for which, and which of them were called."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from godwit.control.records import CalledStandby, Placement, Standby
from godwit.store.rows.base import Rows
from godwit.store.tables import PLACEMENTS, STANDBYS

_STANDBY = PLACEMENTS.alias("standby")
_WATCHED = PLACEMENTS.alias("watched")


class StandbyTable(Rows):
    """See `control.machine_rows.StandbyRows`."""

    async def put(self, machine: Placement, watched: Collection[str]) -> None:
        """Have a machine stand by for exactly these; those it did already keep their marks."""
        mine = STANDBYS.c.machine_id == machine.machine_id
        query = sa.select(STANDBYS.c.watched_id).where(mine)
        known = set((await self._connection.execute(query)).scalars())
        await self._connection.execute(
            STANDBYS.delete().where(mine, STANDBYS.c.watched_id.not_in(watched))
        )
        for watched_id in sorted(set(watched) - known):
            row = Standby(machine.machine_id, watched_id, machine.org_id, machine.app_id)
            await self._insert(STANDBYS, row)

    async def watching(self, watched_id: str) -> list[str]:
        """Return the ids of living machines that stand by for one."""
        query = (
            sa.select(STANDBYS.c.machine_id)
            .join(PLACEMENTS, PLACEMENTS.c.machine_id == STANDBYS.c.machine_id)
            .where(STANDBYS.c.watched_id == watched_id, PLACEMENTS.c.destroyed_at_ms.is_(None))
        )
        found = await self._connection.execute(query.order_by(STANDBYS.c.machine_id))
        return list(found.scalars())

    async def due(self, host_id: str, resting: Collection[str], limit: int) -> list[Standby]:
        """Return the standbys not called yet of living machines on a host, but for the resting."""
        query = (
            sa.select(STANDBYS)
            .select_from(_joined())
            .where(
                _WATCHED.c.host_id == host_id,
                _WATCHED.c.app_id == STANDBYS.c.app_id,
                _WATCHED.c.status == "accepted",
                _WATCHED.c.destroyed_at_ms.is_(None),
                _WATCHED.c.state.not_in(resting),
                _STANDBY.c.destroyed_at_ms.is_(None),
                STANDBYS.c.called_at_ms.is_(None),
            )
        )
        ordered = query.order_by(STANDBYS.c.machine_id, STANDBYS.c.watched_id)
        return await self._all(ordered.limit(limit), Standby)

    async def called(self, after: tuple[str, str], limit: int) -> list[CalledStandby]:
        """Return those that were called, in order of their keys, after one."""
        machine_id, watched_id = after
        keys = (STANDBYS.c.machine_id, STANDBYS.c.watched_id)
        query = (
            sa.select(
                STANDBYS,
                _STANDBY.c.host_id.label("standby_host_id"),
                _WATCHED.c.host_id.label("watched_host_id"),
            )
            .select_from(_joined())
            .where(
                STANDBYS.c.called_at_ms.is_not(None),
                _STANDBY.c.destroyed_at_ms.is_(None),
                (keys[0] > machine_id) | ((keys[0] == machine_id) & (keys[1] > watched_id)),
            )
        )
        found = []
        for row in (await self._connection.execute(query.order_by(*keys).limit(limit))).mappings():
            values = dict(row)
            hosts = values.pop("standby_host_id"), values.pop("watched_host_id")
            found.append(CalledStandby(Standby(**values), *hosts))
        return found

    async def call(self, row: Standby, at_ms: int) -> bool:
        """Mark one as called; tell whether nobody had."""
        statement = STANDBYS.update().where(_is(row), STANDBYS.c.called_at_ms.is_(None))
        return await self._connection.change(statement.values(called_at_ms=at_ms)) == 1

    async def started(self, row: Standby, at_ms: int) -> None:
        """Mark one as started."""
        await self._mark(row, started_at_ms=at_ms)

    async def release(self, row: Standby) -> None:
        """Take the marks away: what it stands by for is back."""
        await self._mark(row, called_at_ms=None, started_at_ms=None)

    async def _mark(self, row: Standby, **values: Any) -> None:
        await self._connection.execute(STANDBYS.update().where(_is(row)).values(**values))


def _joined() -> sa.FromClause:
    return STANDBYS.join(_STANDBY, _STANDBY.c.machine_id == STANDBYS.c.machine_id).join(
        _WATCHED, _WATCHED.c.machine_id == STANDBYS.c.watched_id
    )


def _is(row: Standby) -> sa.ColumnElement[bool]:
    return (STANDBYS.c.machine_id == row.machine_id) & (STANDBYS.c.watched_id == row.watched_id)
