"""Addresses of apps in private networks."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    given = sa.Column("addresses_given", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("networks", given)
    op.add_column("addresses", sa.Column("network_id", sa.String(length=40), nullable=True))
    op.add_column(
        "addresses",
        sa.Column("sole", sa.Boolean(), nullable=False, server_default=sa.false()),
    )


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
