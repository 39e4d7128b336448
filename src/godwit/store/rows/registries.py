"""Credentials for external registries."""

import sqlalchemy as sa

from godwit.control.records import RegistryCredential
from godwit.control.sealing import Sealed
from godwit.store.rows.base import Rows
from godwit.store.tables import REGISTRY_CREDENTIALS

_TABLE = REGISTRY_CREDENTIALS


class RegistryCredentialTable(Rows):
    """See `control.rows.RegistryCredentialRows`."""

    async def put(self, row: RegistryCredential) -> None:
        """Add one, or replace the organization's for that registry."""
        changing = {
            "username": row.username,
            "format": row.sealed.format,
            "key_id": row.sealed.key_id,
            "nonce": row.sealed.nonce,
            "data": row.sealed.data,
            "updated_at_ms": row.updated_at_ms,
        }
        changed = await self._connection.change(
            _TABLE.update().where(_is(row.org_id, row.registry)).values(**changing)
        )
        if changed == 0:
            statement = _TABLE.insert().values(
                org_id=row.org_id,
                registry=row.registry,
                created_at_ms=row.created_at_ms,
                **changing,
            )
            await self._connection.execute(statement)

    async def get(self, org_id: str, registry: str) -> RegistryCredential | None:
        """Return an organization's for a registry."""
        found = await self._credentials(_is(org_id, registry))
        return found[0] if found else None

    async def of_org(self, org_id: str) -> list[RegistryCredential]:
        """Return an organization's, by registry."""
        return await self._credentials(_TABLE.c.org_id == org_id)

    async def remove(self, org_id: str, registry: str) -> bool:
        """Forget one; tell whether there was one."""
        return await self._connection.change(_TABLE.delete().where(_is(org_id, registry))) > 0

    async def _credentials(self, where: sa.ColumnElement[bool]) -> list[RegistryCredential]:
        query = _TABLE.select().where(where).order_by(_TABLE.c.registry)
        rows = (await self._connection.execute(query)).mappings()
        return [
            RegistryCredential(
                org_id=row["org_id"],
                registry=row["registry"],
                username=row["username"],
                sealed=Sealed(row["format"], row["key_id"], row["nonce"], row["data"]),
                created_at_ms=row["created_at_ms"],
                updated_at_ms=row["updated_at_ms"],
            )
            for row in rows
        ]


def _is(org_id: str, registry: str) -> sa.ColumnElement[bool]:
    return (_TABLE.c.org_id == org_id) & (_TABLE.c.registry == registry)
