"""UDP ports at addresses that apps share."""

from collections.abc import Collection

import sqlalchemy as sa

from godwit.control.records import UdpClaim
from godwit.store.rows.base import Rows
from godwit.store.tables import UDP_CLAIMS

_OF = UDP_CLAIMS.c


class UdpClaimTable(Rows):
    """See `control.rows.UdpClaimRows`."""

    async def at(self, ip: str, ports: Collection[int]) -> list[UdpClaim]:
        """Return those of an address at these ports, whosever they are."""
        query = UDP_CLAIMS.select().where(_OF.ip == ip, _OF.port.in_(ports)).order_by(_OF.port)
        return await self._all(query, UdpClaim)

    async def of_app(self, app_id: str) -> list[UdpClaim]:
        """Return an app's, by address and port."""
        query = UDP_CLAIMS.select().where(_OF.app_id == app_id).order_by(_OF.ip, _OF.port)
        return await self._all(query, UdpClaim)

    async def add(self, row: UdpClaim) -> None:
        """Add one."""
        await self._insert(UDP_CLAIMS, row)

    async def renew(self, app_id: str, ports: Collection[int], at_ms: int) -> None:
        """Note that an app has services at these of its ports."""
        change = UDP_CLAIMS.update().where(_is(app_id, ports)).values(wanted_at_ms=at_ms)
        await self._connection.execute(change)

    async def remove(self, app_id: str, ports: Collection[int]) -> None:
        """Take these from an app."""
        await self._connection.execute(UDP_CLAIMS.delete().where(_is(app_id, ports)))

    async def forget(self, app_id: str) -> None:
        """Take all of an app away."""
        await self._connection.execute(UDP_CLAIMS.delete().where(_OF.app_id == app_id))

    async def due(self, before_ms: int, limit: int) -> list[str]:
        """Return the apps that have claims last seen to be wanted before a time, oldest first."""
        oldest = sa.func.min(_OF.wanted_at_ms)
        query = (
            sa.select(_OF.app_id)
            .where(_OF.wanted_at_ms < before_ms)
            .group_by(_OF.app_id)
            .order_by(oldest, _OF.app_id)
            .limit(limit)
        )
        return [str(one) for one in (await self._connection.execute(query)).scalars()]


def _is(app_id: str, ports: Collection[int]) -> sa.ColumnElement[bool]:
    return (_OF.app_id == app_id) & _OF.port.in_(ports)
