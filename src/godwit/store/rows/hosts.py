"""Hosts."""

from collections.abc import Collection
from dataclasses import asdict

import sqlalchemy as sa

from godwit.control.records import Host
from godwit.store.rows.base import Rows
from godwit.store.tables import HOSTS
from godwit.wire.facts import MemberState

_KEPT = frozenset({"id", "number", "created_at_ms", "seen_at_ms", "state", "release"})
"""What a host does not say of itself."""
_MEMBER = HOSTS.c.state != "removed"


class HostTable(Rows):
    """See `control.rows.HostRows`."""

    async def put(self, row: Host) -> None:
        """Add one, or renew what it says of itself."""
        values = asdict(row)
        renewed = {key: value for key, value in values.items() if key not in _KEPT}
        changed = await self._connection.change(
            HOSTS.update().where(HOSTS.c.id == row.id).values(**renewed)
        )
        if changed == 0:
            await self._connection.execute(HOSTS.insert().values(**values))

    async def get(self, host_id: str) -> Host | None:
        """Return one, removed or not."""
        return await self._one(HOSTS.select().where(HOSTS.c.id == host_id), Host)

    async def by_key(self, public_key: str) -> Host | None:
        """Return the one whose agent has this nkey, removed or not."""
        return await self._one(HOSTS.select().where(HOSTS.c.public_key == public_key), Host)

    async def all(self) -> list[Host]:
        """Return every host that was not removed."""
        query = HOSTS.select().where(_MEMBER)
        return await self._all(query.order_by(HOSTS.c.region, HOSTS.c.id), Host)

    async def page(self, after: int, limit: int) -> list[Host]:
        """Return hosts by number after one, the removed too."""
        query = HOSTS.select().where(HOSTS.c.number > after)
        return await self._all(query.order_by(HOSTS.c.number).limit(limit), Host)

    async def regions(self) -> list[str]:
        """Return the regions that have hosts, sorted."""
        query = sa.select(HOSTS.c.region).distinct().where(_MEMBER).order_by(HOSTS.c.region)
        return list((await self._connection.execute(query)).scalars())

    async def active(self, region: str) -> list[str]:
        """Return the hosts of a region that take machines."""
        query = sa.select(HOSTS.c.id).where(HOSTS.c.region == region, HOSTS.c.state == "active")
        return list((await self._connection.execute(query)).scalars())

    async def count(self, region: str) -> int:
        """Return how many hosts of a region take machines."""
        query = (
            sa.select(sa.func.count())
            .select_from(HOSTS)
            .where(HOSTS.c.region == region, HOSTS.c.state == "active")
        )
        return int((await self._connection.execute(query)).scalar_one())

    async def seen(self, host_id: str, at_ms: int) -> None:
        """Note that a host was heard of."""
        statement = HOSTS.update().where(HOSTS.c.id == host_id).values(seen_at_ms=at_ms)
        await self._connection.execute(statement)

    async def set_release(self, host_id: str, release: str) -> None:
        """Note which release of Godwit one runs."""
        statement = HOSTS.update().where(HOSTS.c.id == host_id)
        await self._connection.execute(statement.values(release=release))

    async def removed(self, ids: Collection[str]) -> frozenset[str]:
        """Return which of these hosts were removed."""
        query = sa.select(HOSTS.c.id).where(HOSTS.c.id.in_(ids), HOSTS.c.state == "removed")
        return frozenset((await self._connection.execute(query)).scalars())

    async def set_state(self, host_id: str, state: MemberState, revision: int) -> None:
        """Change what may be done with one."""
        statement = HOSTS.update().where(HOSTS.c.id == host_id)
        await self._connection.execute(statement.values(state=state, revision=revision))
