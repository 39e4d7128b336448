"""Rows that are only ever added and drained: audit, and the outbox with its readers."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from godwit.control.records import AuditRow, OutboxRow, Publication
from godwit.store.rows.base import Rows
from godwit.store.tables import AUDIT, OUTBOX, PUBLICATIONS


class AuditTable(Rows):
    """See `control.rows.AuditRows`."""

    async def add(self, row: AuditRow) -> None:
        """Add one."""
        await self._insert(AUDIT, row)

    async def has(self, row_id: str) -> bool:
        """Tell whether there is a row of that id."""
        query = sa.select(AUDIT.c.id).where(AUDIT.c.id == row_id)
        return (await self._connection.execute(query)).first() is not None

    async def page(
        self, org_ids: Collection[str] | None, *, before: str, limit: int
    ) -> list[AuditRow]:
        """Return the newest first, before an id; of all organizations for `None`."""
        query = AUDIT.select().order_by(AUDIT.c.id.desc()).limit(limit)
        if org_ids is not None:
            query = query.where(AUDIT.c.org_id.in_(org_ids))
        if before:
            query = query.where(AUDIT.c.id < before)
        return await self._all(query, AuditRow)

    async def forget(self, before: str, limit: int) -> int:
        """Remove the oldest before an id; return how many."""
        oldest = sa.select(AUDIT.c.id).where(AUDIT.c.id < before).order_by(AUDIT.c.id).limit(limit)
        return await self._connection.change(AUDIT.delete().where(AUDIT.c.id.in_(oldest)))


class OutboxTable(Rows):
    """See `control.rows.OutboxRows`."""

    async def add(self, fact: dict[str, Any]) -> None:
        """Have a fact published after this transaction."""
        await self._connection.execute(OUTBOX.insert().values(fact=fact))

    async def after(self, position: int, limit: int) -> list[OutboxRow]:
        """Return the oldest that came later than a position, in their order."""
        query = OUTBOX.select().where(OUTBOX.c.id > position).order_by(OUTBOX.c.id).limit(limit)
        return await self._all(query, OutboxRow)

    async def newest(self) -> int:
        """Return the position of the newest, 0 without any."""
        return int(await self._scalar(sa.select(sa.func.max(OUTBOX.c.id))) or 0)

    async def forget(self, now_ms: int) -> None:
        """Forget what every region was told of that follows the outbox now."""
        newest = await self.newest()
        behind = await self._scalar(
            sa.select(sa.func.min(PUBLICATIONS.c.position)).where(PUBLICATIONS.c.until_ms > now_ms)
        )
        # The newest stays: a number that was given is not given again.
        last = min(newest if behind is None else int(behind), newest - 1)
        await self._connection.execute(OUTBOX.delete().where(OUTBOX.c.id <= last))


class PublicationTable(Rows):
    """See `control.rows.PublicationRows`."""

    async def all(self) -> list[Publication]:
        """Return every region's."""
        query = PUBLICATIONS.select().order_by(PUBLICATIONS.c.region)
        return await self._all(query, Publication)

    async def get(self, region: str) -> Publication | None:
        """Return a region's."""
        return await self._one(
            PUBLICATIONS.select().where(PUBLICATIONS.c.region == region), Publication
        )

    async def put(self, row: Publication) -> None:
        """Put one in the place of what was there."""
        await self.remove(row.region)
        await self._insert(PUBLICATIONS, row)

    async def move(self, region: str, holder: str, position: int | None) -> None:
        """Note how far a region was told, unless another holds it now."""
        await self._connection.execute(
            PUBLICATIONS.update()
            .where(PUBLICATIONS.c.region == region, PUBLICATIONS.c.holder == holder)
            .values(position=position)
        )

    async def remove(self, region: str) -> None:
        """Remove a region's."""
        await self._connection.execute(
            PUBLICATIONS.delete().where(PUBLICATIONS.c.region == region)
        )
