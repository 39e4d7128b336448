"""Alembic's entry: runs the steps on the connection that `store.database` hands over."""

from alembic import context

from godwit.store import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.METADATA,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
