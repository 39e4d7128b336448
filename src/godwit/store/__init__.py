"""SQL behind control's ports: SQLite (WAL) or PostgreSQL by URL; migrations at start-up."""
