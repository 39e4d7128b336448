"""Brings a database's tables to this release, in the transaction it is given.

Called by `store.database` and `store.moving`, whose transaction keeps other replicas out.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from godwit.base import errors

_MIGRATIONS = Path(__file__).parent / "migrations"
_OTHERWISE_COLLATED = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_collation o ON o.oid = a.attcollation
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
  AND a.attnum > 0 AND NOT a.attisdropped AND o.collname <> 'C'
ORDER BY c.relname, a.attnum
"""


def migrate(connection: sa.Connection) -> None:
    """Run the steps that are missing.

    Raises:
        Failure: `failed_precondition` when a newer release wrote the database.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    present = MigrationContext.configure(connection).get_current_revision()
    if present is not None and present not in known:
        raise errors.Failure(
            "failed_precondition",
            f"the control database is of a newer release (schema {present})",
            hint="start the newer godwit, or restore a copy made by this one",
        )
    command.upgrade(config, "head")
    if connection.dialect.name == "postgresql":
        _collate_by_bytes(connection)


def _collate_by_bytes(connection: sa.Connection) -> None:
    """Have PostgreSQL order text as SQLite and Python do, whatever the database's locale is.

    Nor can a new C library on its server then change the order that the indexes were made in.
    """
    changes: dict[str, list[str]] = {}
    for table, column, kind in connection.exec_driver_sql(_OTHERWISE_COLLATED):
        change = f'ALTER COLUMN "{column}" TYPE {kind} COLLATE "C"'
        changes.setdefault(table, []).append(change)
    for table, columns in changes.items():
        connection.exec_driver_sql(f'ALTER TABLE "{table}" {", ".join(columns)}')
