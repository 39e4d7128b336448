"""Tokens that let servers join."""

from godwit.control.records import JoinToken
from godwit.store.rows.base import Rows
from godwit.store.tables import JOIN_TOKENS


class JoinTokenTable(Rows):
    """See `control.rows.JoinTokenRows`."""

    async def add(self, row: JoinToken) -> None:
        """Add one."""
        await self._insert(JOIN_TOKENS, row)

    async def by_hash(self, digest: str) -> JoinToken | None:
        """Return the one whose secret has this SHA-256."""
        return await self._one(JOIN_TOKENS.select().where(JOIN_TOKENS.c.hash == digest), JoinToken)

    async def by_id(self, token_id: str) -> JoinToken | None:
        """Return one."""
        return await self._one(JOIN_TOKENS.select().where(JOIN_TOKENS.c.id == token_id), JoinToken)

    async def open(self, now_ms: int) -> list[JoinToken]:
        """Return those that a server may still join with, by age."""
        query = JOIN_TOKENS.select().where(
            JOIN_TOKENS.c.used_at_ms.is_(None),
            JOIN_TOKENS.c.revoked_at_ms.is_(None),
            JOIN_TOKENS.c.expires_at_ms > now_ms,
        )
        return await self._all(query.order_by(JOIN_TOKENS.c.created_at_ms), JoinToken)

    async def use(self, token_id: str, public_key: str, host_id: str, at_ms: int) -> bool:
        """Note who joined with one; tell whether nobody had."""
        statement = JOIN_TOKENS.update().where(
            JOIN_TOKENS.c.id == token_id, JOIN_TOKENS.c.used_at_ms.is_(None)
        )
        used = statement.values(used_by=public_key, host_id=host_id, used_at_ms=at_ms)
        return await self._connection.change(used) == 1

    async def revoke(self, token_id: str, at_ms: int) -> bool:
        """Make one worthless; tell whether somebody could still join with it."""
        statement = JOIN_TOKENS.update().where(
            JOIN_TOKENS.c.id == token_id,
            JOIN_TOKENS.c.used_at_ms.is_(None),
            JOIN_TOKENS.c.revoked_at_ms.is_(None),
        )
        return await self._connection.change(statement.values(revoked_at_ms=at_ms)) == 1
