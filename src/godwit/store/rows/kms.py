"""Apps' secret keys, sealed by the keyring."""

from dataclasses import asdict

import sqlalchemy as sa

from godwit.control.records import KmsKey
from godwit.store.rows.base import Rows
from godwit.store.tables import KMS_KEYS


class KmsKeyTable(Rows):
    """See `control.rows.KmsKeyRows`."""

    async def of_app(self, app_id: str) -> list[KmsKey]:
        """Return an app's keys, by name."""
        query = KMS_KEYS.select().where(KMS_KEYS.c.app_id == app_id).order_by(KMS_KEYS.c.name)
        return await self._all(query, KmsKey)

    async def get(self, app_id: str, name: str) -> KmsKey | None:
        """Return one."""
        return await self._one(KMS_KEYS.select().where(_is(app_id, name)), KmsKey)

    async def put(self, row: KmsKey) -> None:
        """Add one, or replace the app's of that name; when it was made stays."""
        kept = {
            name: value
            for name, value in asdict(row).items()
            if name not in ("app_id", "name", "org_id", "created_at_ms")
        }
        statement = KMS_KEYS.update().where(_is(row.app_id, row.name)).values(**kept)
        if await self._connection.change(statement) == 0:
            await self._insert(KMS_KEYS, row)

    async def remove(self, app_id: str, name: str) -> None:
        """Forget one."""
        await self._connection.execute(KMS_KEYS.delete().where(_is(app_id, name)))

    async def forget(self, app_id: str) -> None:
        """Forget all of an app."""
        await self._connection.execute(KMS_KEYS.delete().where(KMS_KEYS.c.app_id == app_id))


def _is(app_id: str, name: str) -> sa.ColumnElement[bool]:
    return (KMS_KEYS.c.app_id == app_id) & (KMS_KEYS.c.name == name)
