"""Releases."""

from collections.abc import Collection

import sqlalchemy as sa

from godwit.control.records import Release, ReleaseStatus
from godwit.store.rows.base import Rows
from godwit.store.tables import RELEASES

_DIGITS = 10


class ReleaseTable(Rows):
    """See `control.rows.ReleaseRows`."""

    async def add(self, row: Release) -> None:
        """Add one."""
        await self._insert(RELEASES, row)

    async def last_version(self, app_id: str) -> int:
        """Return the highest version, 0 when there is none."""
        query = sa.select(sa.func.max(RELEASES.c.version)).where(RELEASES.c.app_id == app_id)
        return int(await self._scalar(query) or 0)

    async def newest(self, app_id: str, limit: int) -> list[Release]:
        """Return the newest first."""
        query = RELEASES.select().where(RELEASES.c.app_id == app_id)
        return await self._all(query.order_by(RELEASES.c.version.desc()).limit(limit), Release)

    async def find(self, app_id: str, id_or_version: str) -> Release | None:
        """Return one of an app, by its id or its number."""
        which = RELEASES.c.id == id_or_version
        if id_or_version.isascii() and id_or_version.isdecimal() and len(id_or_version) < _DIGITS:
            which = RELEASES.c.version == int(id_or_version)
        query = RELEASES.select().where(RELEASES.c.app_id == app_id, which)
        return await self._one(query, Release)

    async def images(self, app_ids: Collection[str], newest: int) -> list[str]:
        """Return the references of all images of the newest releases of each of these apps."""
        place = sa.func.row_number().over(
            partition_by=RELEASES.c.app_id, order_by=RELEASES.c.version.desc()
        )
        ranked = (
            sa.select(RELEASES.c.image_ref, RELEASES.c.further_images, place.label("place"))
            .where(RELEASES.c.app_id.in_(app_ids))
            .subquery()
        )
        query = sa.select(ranked.c.image_ref, ranked.c.further_images)
        found: dict[str, None] = {}
        for image, further in await self._connection.execute(
            query.where(ranked.c.place <= newest)
        ):
            found |= dict.fromkeys((image, *further))
        return list(found)

    async def set_status(
        self, release_id: str, status: ReleaseStatus, error: str, at_ms: int
    ) -> None:
        """Change its status."""
        statement = RELEASES.update().where(RELEASES.c.id == release_id)
        await self._connection.execute(
            statement.values(status=status, error=error, updated_at_ms=at_ms)
        )
