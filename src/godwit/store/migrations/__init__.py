"""How a database gets from one release's tables to the next's (Alembic)."""
