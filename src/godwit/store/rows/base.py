"""What the adapters share: a connection, and rows turned into records.

What every read of the API asks is a statement made once, with parameters: to make one anew costs
more than to execute it.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import sqlalchemy as sa

from godwit.store.lanes import Connection

T = TypeVar("T")


class Rows:
    """A table on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def _insert(self, table: sa.Table, record: Any) -> None:
        values = {
            column.name: getattr(record, column.name)
            for column in table.columns
            if hasattr(record, column.name)
        }
        await self._connection.execute(table.insert().values(**values))

    async def _one(self, query: sa.Select[Any], kind: type[T], **parameters: Any) -> T | None:
        row = (await self._connection.execute(query, parameters)).mappings().one_or_none()
        return None if row is None else kind(**row)

    async def _all(self, query: sa.Select[Any], kind: type[T], **parameters: Any) -> list[T]:
        rows: Iterable[Any] = (await self._connection.execute(query, parameters)).mappings()
        return [kind(**row) for row in rows]

    async def _scalar(self, query: sa.Select[Any]) -> Any:
        return (await self._connection.execute(query)).scalar_one_or_none()
