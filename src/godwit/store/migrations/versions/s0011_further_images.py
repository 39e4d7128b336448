"""A release's machines may run more images than its own."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("further_images", sa.JSON(), nullable=False, server_default="[]")
    op.add_column("releases", column)


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
