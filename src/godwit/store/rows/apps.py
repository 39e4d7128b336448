"""Apps; deleted ones stay as tombstones."""

from typing import Any

import sqlalchemy as sa

from godwit.control.records import App, AppStatus
from godwit.store.rows.base import Rows
from godwit.store.tables import APPS, NETWORKS, ORGANIZATIONS

_QUERY: sa.Select[Any] = (
    sa.select(
        APPS,
        ORGANIZATIONS.c.slug.label("org_slug"),
        ORGANIZATIONS.c.name.label("org_name"),
        ORGANIZATIONS.c.number.label("org_number"),
        ORGANIZATIONS.c.replays_across_networks,
        NETWORKS.c.name.label("network_name"),
        NETWORKS.c.number.label("network_number"),
    )
    .join(ORGANIZATIONS, ORGANIZATIONS.c.id == APPS.c.org_id)
    .join(NETWORKS, NETWORKS.c.id == APPS.c.network_id)
)
_ALIVE = APPS.c.deleted_at_ms.is_(None)
_BY_NAME = _QUERY.where(APPS.c.name == sa.bindparam("name"), _ALIVE)


class AppTable(Rows):
    """See `control.rows.AppRows`."""

    async def add(self, row: App) -> None:
        """Add one (what comes from organization and network is not stored again)."""
        await self._insert(APPS, row)

    async def by_name(self, name: str) -> App | None:
        """Return the living app of that name."""
        return await self._one(_BY_NAME, App, name=name)

    async def deleted_by_name(self, name: str) -> App | None:
        """Return the last deleted app of that name."""
        query = _QUERY.where(APPS.c.name == name, APPS.c.deleted_at_ms.is_not(None))
        newest = query.order_by(APPS.c.deleted_at_ms.desc(), APPS.c.revision.desc()).limit(1)
        return await self._one(newest, App)

    async def by_id(self, app_id: str) -> App | None:
        """Return one, deleted or not."""
        return await self._one(_QUERY.where(APPS.c.id == app_id), App)

    async def by_idempotency_key(self, org_id: str, key: str) -> App | None:
        """Return the living app an organization made with that key."""
        query = _QUERY.where(APPS.c.org_id == org_id, APPS.c.idempotency_key == key, _ALIVE)
        return await self._one(query, App)

    async def page(self, org_id: str, *, role: str | None, after: str, limit: int) -> list[App]:
        """Return living apps of an organization by name, after a name."""
        query = _QUERY.where(_owned(org_id, role), APPS.c.name > after)
        return await self._all(query.order_by(APPS.c.name).limit(limit), App)

    async def count(self, org_id: str, *, role: str | None) -> int:
        """Return how many living apps an organization has."""
        query = sa.select(sa.func.count()).select_from(APPS).where(_owned(org_id, role))
        return int(await self._scalar(query))

    async def newest_facts(self, after: str, limit: int) -> list[App]:
        """Return apps by id, after an id: the newest of every name, deleted or not."""
        newer = APPS.alias("newer")
        superseded = sa.exists().where(
            newer.c.name == APPS.c.name, newer.c.revision > APPS.c.revision
        )
        query = _QUERY.where(APPS.c.id > after, ~superseded)
        return await self._all(query.order_by(APPS.c.id).limit(limit), App)

    async def set_status(self, app_id: str, status: AppStatus) -> None:
        """Change its status."""
        await self._update(app_id, status=status)

    async def touch(self, app_id: str, revision: int) -> None:
        """Note the revision of its newest fact."""
        await self._update(app_id, revision=revision)

    async def mark_deleted(self, app_id: str, at_ms: int, revision: int) -> None:
        """Turn it into a tombstone."""
        await self._update(app_id, deleted_at_ms=at_ms, revision=revision)

    async def _update(self, app_id: str, **values: Any) -> None:
        await self._connection.execute(APPS.update().where(APPS.c.id == app_id).values(**values))


def _owned(org_id: str, role: str | None) -> sa.ColumnElement[bool]:
    mine = (APPS.c.org_id == org_id) & _ALIVE
    return mine if role is None else mine & (APPS.c.role == role)
