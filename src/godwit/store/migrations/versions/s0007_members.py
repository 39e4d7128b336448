"""Hosts are members of a cluster: their keys, where they are reached; tokens to join with."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_FIRST_NUMBER = 65_537


def upgrade() -> None:
    for name, size, default in (
        ("mesh_key", 64, ""),
        ("state", 16, "active"),
        ("release", 64, ""),
    ):
        op.add_column(
            "hosts",
            sa.Column(name, sa.String(length=size), nullable=False, server_default=default),
        )
    for name, default in (
        ("roles", "[]"),
        ("keys", "{}"),
        ("endpoints", "[]"),
        ("services", "{}"),
    ):
        op.add_column("hosts", sa.Column(name, sa.JSON(), nullable=False, server_default=default))
    op.add_column(
        "hosts", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="0")
    )
    _create_join_tokens()
    _count_hosts()


def _create_join_tokens() -> None:
    op.create_table(
        "join_tokens",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=3), nullable=True),
        sa.Column("created_by", sa.String(length=400), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_by", sa.String(length=100), nullable=True),
        sa.Column("host_id", sa.String(length=40), nullable=True),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_join_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_join_tokens_hash")),
    )
    op.create_index(op.f("ix_join_tokens_expires_at_ms"), "join_tokens", ["expires_at_ms"])


def _count_hosts() -> None:
    """Number hosts from here on; the first one's number is not given out again."""
    hosts = sa.table("hosts", sa.column("number", sa.BigInteger))
    highest = op.get_bind().execute(sa.select(sa.func.max(hosts.c.number))).scalar()
    counters = sa.table(
        "counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)
    )
    op.bulk_insert(counters, [{"name": "hosts", "value": max(highest or 0, _FIRST_NUMBER)}])


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
