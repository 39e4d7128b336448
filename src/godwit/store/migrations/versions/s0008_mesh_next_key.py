"""A host's key in the mesh is known before it is used."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "hosts",
        sa.Column("mesh_next_key", sa.String(length=64), nullable=False, server_default=""),
    )


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
