"""Hosts."""

from dataclasses import asdict

import sqlalchemy as sa

from godwit.control.records import Host
from godwit.store.rows.base import Rows
from godwit.store.tables import HOSTS


class HostTable(Rows):
    """See `control.rows.HostRows`."""

    async def put(self, row: Host) -> None:
        """Add one, or renew what it says of itself."""
        values = asdict(row)
        kept = {key: values[key] for key in ("public_key", "region", "zone")}
        changed = await self._connection.execute(
            HOSTS.update().where(HOSTS.c.id == row.id).values(**kept)
        )
        if changed.rowcount == 0:
            await self._connection.execute(HOSTS.insert().values(**values))

    async def all(self) -> list[Host]:
        """Return every host."""
        return await self._all(HOSTS.select().order_by(HOSTS.c.region, HOSTS.c.id), Host)

    async def regions(self) -> list[str]:
        """Return the regions that have hosts, sorted."""
        query = sa.select(HOSTS.c.region).distinct().order_by(HOSTS.c.region)
        return list((await self._connection.execute(query)).scalars())

    async def seen(self, host_id: str, at_ms: int) -> None:
        """Note that a host was heard of."""
        statement = HOSTS.update().where(HOSTS.c.id == host_id).values(seen_at_ms=at_ms)
        await self._connection.execute(statement)
