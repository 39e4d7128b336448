"""Copies every table from one database into another, and proves it: counts and a sum of hashes.

Called by `store.moving`, within one transaction of each. JSON goes as the text it is kept as, so
that nothing of it is read and written anew.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from godwit.base import errors
from godwit.store.tables import METADATA

_BATCH = 500
_MODULUS = 1 << 256


@dataclass(frozen=True)
class Sum:
    """What a table holds, whatever the order of its rows."""

    rows: int = 0
    hashes: int = 0

    def plus(self, row: tuple[Any, ...]) -> "Sum":
        """Return it with one row more."""
        digest = hashlib.sha256(repr(row).encode("utf-8", "surrogatepass")).digest()
        return Sum(self.rows + 1, (self.hashes + int.from_bytes(digest)) % _MODULUS)


async def copy_all(
    source: AsyncConnection, target: AsyncConnection, progress: Callable[[], None]
) -> dict[str, int]:
    """Put the source's rows in the place of the target's; return how many each table has.

    Args:
        source: Read from, in a transaction that keeps writers out.
        target: Written to; nothing is committed.
        progress: Called every few hundred rows.

    Raises:
        Failure: `invalid_argument` when the target cannot keep a value, `internal` when it does
            not hold what it was given.
    """
    for table in reversed(METADATA.sorted_tables):
        await target.execute(table.delete())
    counts = {}
    for table in METADATA.sorted_tables:
        given = await _copy(table, source, target, progress)
        found = await sum_of(table, target, progress)
        if found != given:
            raise errors.Failure(
                "internal",
                f"{table.name} did not arrive as it was: {given.rows} rows, {found.rows} found",
            )
        counts[table.name] = given.rows
    await _set_sequences(target)
    return counts


async def sum_of(
    table: sa.Table, connection: AsyncConnection, progress: Callable[[], None]
) -> Sum:
    """Return what a table holds."""
    total = Sum()
    query = _as_text(table, connection).select().execution_options(yield_per=_BATCH)
    async with connection.stream(query) as found:
        async for batch in found.partitions():
            for row in batch:
                total = total.plus(tuple(row))
            progress()
    return total


async def _copy(
    table: sa.Table,
    source: AsyncConnection,
    target: AsyncConnection,
    progress: Callable[[], None],
) -> Sum:
    total = Sum()
    query = _as_text(table, source).select().execution_options(yield_per=_BATCH)
    insert = _as_text(table, target).insert()
    async with source.stream(query) as found:
        async for batch in found.mappings().partitions():
            try:
                await target.execute(insert, [dict(row) for row in batch])
            except sa.exc.DataError as error:
                raise errors.invalid(
                    f"a value in {table.name} cannot be kept there: {error.orig}"
                ) from error
            for row in batch:
                total = total.plus(tuple(row.values()))
            progress()
    return total


async def _set_sequences(target: AsyncConnection) -> None:
    """Have PostgreSQL's own numbers go on after the highest there is."""
    if target.dialect.name != "postgresql":
        return
    for table in METADATA.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        highest = (await target.execute(sa.select(sa.func.max(column)))).scalar_one()
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        await target.execute(sa.select(sa.func.setval(sequence, (highest or 0) + 1, False)))


def _as_text(table: sa.Table, connection: AsyncConnection) -> sa.Table:
    """Return the table with its JSON columns as the text that is in them."""
    json: type[sa.types.UserDefinedType[str]] = _JsonText
    if connection.dialect.name == "postgresql":
        json = _PostgresJsonText
    columns = (
        sa.Column(one.name, json() if isinstance(one.type, sa.JSON) else one.type)
        for one in table.columns
    )
    return sa.Table(table.name, sa.MetaData(), *columns)


class _JsonText(sa.types.UserDefinedType[str]):
    cache_ok: bool | None = True

    def get_col_spec(self, **_given: Any) -> str:
        """Return the type's name."""
        return "JSON"


class _PostgresJsonText(_JsonText):
    cache_ok: bool | None = True

    def bind_expression(self, bindvalue: sa.BindParameter[str]) -> sa.ColumnElement[str]:
        """Have the text taken for JSON."""
        return sa.type_coerce(sa.cast(bindvalue, sa.JSON), _JsonText())

    def column_expression(self, colexpr: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
        """Have JSON given as text."""
        return sa.cast(colexpr, sa.Text)
