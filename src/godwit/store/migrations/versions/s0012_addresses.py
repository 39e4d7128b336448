"""Public addresses of apps."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "addresses",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("ip", sa.String(length=45), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("service_name", sa.String(length=200), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organizations.id"], name=op.f("fk_addresses_org_id_organizations")
        ),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_addresses_app_id_apps")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_addresses")),
    )
    op.create_index("ix_addresses_app_id", "addresses", ["app_id"])
    op.create_index(
        "uq_addresses_ip_own",
        "addresses",
        ["ip"],
        unique=True,
        sqlite_where=sa.text("type != 'shared_v4'"),
        postgresql_where=sa.text("type != 'shared_v4'"),
    )


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
