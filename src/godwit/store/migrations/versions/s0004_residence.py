"""A database says which platform it holds, and whether the platform still lives in it."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, size, default in (("platform", 32, ""), ("residence", 16, "home"), ("move", 40, "")):
        op.add_column(
            "meta", sa.Column(name, sa.String(length=size), nullable=False, server_default=default)
        )
    op.add_column("meta", sa.Column("moved_to", sa.Text(), nullable=False, server_default=""))
    meta = sa.table("meta", sa.column("platform", sa.String))
    op.execute(meta.update().values(platform=secrets.token_hex(16)))


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
