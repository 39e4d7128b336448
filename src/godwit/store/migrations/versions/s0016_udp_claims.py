"""UDP ports at addresses that apps share."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "udp_claims",
        sa.Column("ip", sa.String(length=45), nullable=False),
        sa.Column("port", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("wanted_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_udp_claims_app_id_apps")),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organizations.id"], name=op.f("fk_udp_claims_org_id_organizations")
        ),
        sa.PrimaryKeyConstraint("ip", "port", name=op.f("pk_udp_claims")),
    )
    op.create_index("ix_udp_claims_app_id", "udp_claims", ["app_id"])
    op.create_index("ix_udp_claims_wanted_at_ms", "udp_claims", ["wanted_at_ms"])


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
