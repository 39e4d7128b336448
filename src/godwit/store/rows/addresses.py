"""Public addresses of apps."""

from collections.abc import Collection

import sqlalchemy as sa

from godwit.control.records import AddressAssignment
from godwit.store.rows.base import Rows
from godwit.store.tables import ADDRESSES

_OWN = ADDRESSES.c.type != "shared_v4"


class AddressTable(Rows):
    """See `control.rows.AddressRows`."""

    async def add(self, row: AddressAssignment) -> None:
        """Add one."""
        await self._insert(ADDRESSES, row)

    async def of_app(self, app_id: str) -> list[AddressAssignment]:
        """Return an app's, the oldest first."""
        query = ADDRESSES.select().where(ADDRESSES.c.app_id == app_id)
        oldest = query.order_by(ADDRESSES.c.created_at_ms, ADDRESSES.c.id)
        return await self._all(oldest, AddressAssignment)

    async def own(self, app_ids: Collection[str]) -> dict[str, list[str]]:
        """Return the addresses that are these apps' alone, by app."""
        query = sa.select(ADDRESSES.c.app_id, ADDRESSES.c.ip)
        query = query.where(ADDRESSES.c.app_id.in_(app_ids), _OWN).order_by(ADDRESSES.c.ip)
        found: dict[str, list[str]] = {}
        for app_id, ip in await self._connection.execute(query):
            found.setdefault(app_id, []).append(ip)
        return found

    async def taken(self, kind: str) -> list[str]:
        """Return all of a type that apps have."""
        query = sa.select(ADDRESSES.c.ip).where(ADDRESSES.c.type == kind)
        return [str(one) for one in (await self._connection.execute(query)).scalars()]

    async def is_taken(self, ip: str) -> bool:
        """Tell whether it is an app's own."""
        query = sa.select(ADDRESSES.c.id).where(ADDRESSES.c.ip == ip, _OWN)
        return (await self._connection.execute(query)).first() is not None

    async def remove(self, address_id: str) -> None:
        """Take one away."""
        await self._connection.execute(ADDRESSES.delete().where(ADDRESSES.c.id == address_id))

    async def forget(self, app_id: str) -> None:
        """Take all of an app away."""
        await self._connection.execute(ADDRESSES.delete().where(ADDRESSES.c.app_id == app_id))
