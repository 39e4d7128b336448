"""What the adapters share: a connection, and rows turned into records."""

from collections.abc import Iterable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


class Rows:
    """A table on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def _insert(self, table: sa.Table, record: Any) -> None:
        values = {
            column.name: getattr(record, column.name)
            for column in table.columns
            if hasattr(record, column.name)
        }
        await self._connection.execute(table.insert().values(**values))

    async def _one(self, query: sa.Select[Any], kind: type[T]) -> T | None:
        row = (await self._connection.execute(query)).mappings().one_or_none()
        return None if row is None else kind(**row)

    async def _all(self, query: sa.Select[Any], kind: type[T]) -> list[T]:
        rows: Iterable[Any] = (await self._connection.execute(query)).mappings()
        return [kind(**row) for row in rows]

    async def _scalar(self, query: sa.Select[Any]) -> Any:
        return (await self._connection.execute(query)).scalar_one_or_none()
