"""Apps' secrets, sealed, and the wrapped keys that seal them."""

from dataclasses import asdict

import sqlalchemy as sa

from godwit.control.records import AppSecret, AppSecretKey
from godwit.store.rows.base import Rows
from godwit.store.tables import APP_SECRET_KEYS, APP_SECRETS

_KEYS, _VALUES = APP_SECRET_KEYS, APP_SECRETS


class AppSecretTable(Rows):
    """See `control.rows.AppSecretRows`."""

    async def key(self, app_id: str) -> AppSecretKey | None:
        """Return an app's keys; `None` when it never had a secret."""
        return await self._one(_KEYS.select().where(_KEYS.c.app_id == app_id), AppSecretKey)

    async def add_key(self, row: AppSecretKey) -> bool:
        """Add an app's first keys; tell whether it had none."""
        if await self.key(row.app_id) is not None:
            return False
        await self._insert(_KEYS, row)
        return True

    async def replace_key(self, was: AppSecretKey, row: AppSecretKey) -> bool:
        """Replace keys and version; tell whether they still were what they were."""
        same = (
            (_KEYS.c.app_id == was.app_id)
            & (_KEYS.c.version == was.version)
            & (_KEYS.c.key_id == was.key_id)
            & (_KEYS.c.root_id == was.root_id)
        )
        kept = {
            name: value
            for name, value in asdict(row).items()
            if name not in ("app_id", "org_id", "created_at_ms")
        }
        return await self._connection.change(_KEYS.update().where(same).values(**kept)) > 0

    async def of_app(self, app_id: str) -> list[AppSecret]:
        """Return an app's secrets, by name."""
        query = _VALUES.select().where(_VALUES.c.app_id == app_id).order_by(_VALUES.c.name)
        return await self._all(query, AppSecret)

    async def names(self, app_id: str) -> frozenset[str]:
        """Return the names of an app's secrets."""
        query = sa.select(_VALUES.c.name).where(_VALUES.c.app_id == app_id)
        return frozenset((await self._connection.execute(query)).scalars())

    async def put(self, row: AppSecret) -> None:
        """Add one, or replace the app's of that name; when it was made stays."""
        kept = {
            name: value
            for name, value in asdict(row).items()
            if name not in ("app_id", "name", "org_id", "created_at_ms")
        }
        changed = await self._connection.change(
            _VALUES.update().where(_is(row.app_id, row.name)).values(**kept)
        )
        if changed == 0:
            await self._insert(_VALUES, row)

    async def remove(self, app_id: str, name: str) -> None:
        """Forget one."""
        await self._connection.execute(_VALUES.delete().where(_is(app_id, name)))

    async def forget(self, app_id: str) -> None:
        """Forget all of an app, its keys included."""
        for table in (_VALUES, _KEYS):
            await self._connection.execute(table.delete().where(table.c.app_id == app_id))

    async def wrapped_otherwise(self, root_id: str, limit: int) -> list[AppSecretKey]:
        """Return keys that another root key than this one wraps."""
        query = (
            _KEYS.select().where(_KEYS.c.root_id != root_id).order_by(_KEYS.c.app_id).limit(limit)
        )
        return await self._all(query, AppSecretKey)

    async def roots(self) -> frozenset[str]:
        """Return the root keys that wrap something."""
        query = sa.select(_KEYS.c.root_id).distinct()
        return frozenset((await self._connection.execute(query)).scalars())


def _is(app_id: str, name: str) -> sa.ColumnElement[bool]:
    return (_VALUES.c.app_id == app_id) & (_VALUES.c.name == name)
