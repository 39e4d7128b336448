"""The database's own row and its counters."""

from godwit.control.records import Meta
from godwit.store.rows.base import Rows
from godwit.store.tables import COUNTERS, META


class MetaTable(Rows):
    """See `control.rows.MetaRows`."""

    async def get(self) -> Meta:
        """Return epoch and revision."""
        row = (await self._connection.execute(META.select())).mappings().one()
        return Meta(epoch=row["epoch"], revision=row["revision"])

    async def next_revision(self) -> int:
        """Return a revision greater than every one before."""
        statement = META.update().values(revision=META.c.revision + 1).returning(META.c.revision)
        return int((await self._connection.execute(statement)).scalar_one())

    async def start_epoch(self, epoch: int) -> None:
        """Start a new epoch: this database was restored from a copy."""
        await self._connection.execute(META.update().values(epoch=epoch))

    async def next_number(self, counter: str) -> int:
        """Return the next number of a counter, from 1, never given out before."""
        statement = (
            COUNTERS.update()
            .where(COUNTERS.c.name == counter)
            .values(value=COUNTERS.c.value + 1)
            .returning(COUNTERS.c.value)
        )
        return int((await self._connection.execute(statement)).scalar_one())
