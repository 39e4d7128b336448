"""Addresses of apps."""

from collections.abc import Collection

import sqlalchemy as sa

from godwit.control.records import PRIVATE, AddressAssignment, Reached
from godwit.store.rows.base import Rows
from godwit.store.tables import ADDRESSES, NETWORKS, ORGANIZATIONS, UDP_CLAIMS

_OWN = ADDRESSES.c.type != "shared_v4"
_QUERY = (
    sa.select(
        ADDRESSES,
        NETWORKS.c.name.label("network_name"),
        ORGANIZATIONS.c.slug.label("network_org"),
    )
    .outerjoin(NETWORKS, NETWORKS.c.id == ADDRESSES.c.network_id)
    .outerjoin(ORGANIZATIONS, ORGANIZATIONS.c.id == NETWORKS.c.org_id)
)


class AddressTable(Rows):
    """See `control.rows.AddressRows`."""

    async def add(self, row: AddressAssignment) -> None:
        """Add one."""
        await self._insert(ADDRESSES, row)

    async def of_app(self, app_id: str) -> list[AddressAssignment]:
        """Return an app's, the oldest first."""
        query = _QUERY.where(ADDRESSES.c.app_id == app_id)
        oldest = query.order_by(ADDRESSES.c.created_at_ms, ADDRESSES.c.id)
        return await self._all(oldest, AddressAssignment)

    async def reached(self, app_ids: Collection[str]) -> dict[str, Reached]:
        """Return how these apps are reached, by app; of one without addresses nothing."""
        of = ADDRESSES.c
        query = sa.select(of.app_id, of.ip, of.type, of.sole).where(of.app_id.in_(app_ids))
        found: dict[str, list[tuple[str, str, bool]]] = {}
        for app_id, ip, kind, sole in await self._connection.execute(query.order_by(of.ip)):
            found.setdefault(app_id, []).append((ip, kind, sole))
        claimed = await self._claimed(app_ids)
        return {
            app_id: Reached(
                tuple(ip for ip, kind, _ in rows if kind != "shared_v4"),
                inside_alone=all(kind == PRIVATE for _, kind, _ in rows)
                and any(sole for _, _, sole in rows),
                shared_udp=tuple(claimed.get(app_id, ())),
            )
            for app_id, rows in found.items()
        }

    async def _claimed(self, app_ids: Collection[str]) -> dict[str, list[str]]:
        of = UDP_CLAIMS.c
        query = sa.select(of.app_id, of.ip, of.port).where(of.app_id.in_(app_ids))
        found: dict[str, list[str]] = {}
        for app_id, ip, port in await self._connection.execute(query.order_by(of.ip, of.port)):
            found.setdefault(app_id, []).append(f"{ip}:{port}")
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
