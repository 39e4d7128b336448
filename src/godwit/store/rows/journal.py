"""Rows that are only ever added and drained: audit and outbox."""

from collections.abc import Collection
from typing import Any

from godwit.control.records import AuditRow, OutboxRow
from godwit.store.rows.base import Rows
from godwit.store.tables import AUDIT, OUTBOX


class AuditTable(Rows):
    """See `control.rows.AuditRows`."""

    async def add(self, row: AuditRow) -> None:
        """Add one."""
        await self._insert(AUDIT, row)

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


class OutboxTable(Rows):
    """See `control.rows.OutboxRows`."""

    async def add(self, fact: dict[str, Any]) -> None:
        """Have a fact published after this transaction."""
        await self._connection.execute(OUTBOX.insert().values(fact=fact))

    async def pending(self, limit: int) -> list[OutboxRow]:
        """Return the oldest."""
        return await self._all(OUTBOX.select().order_by(OUTBOX.c.id).limit(limit), OutboxRow)

    async def done(self, ids: Collection[int]) -> None:
        """Forget those that were published."""
        await self._connection.execute(OUTBOX.delete().where(OUTBOX.c.id.in_(ids)))
