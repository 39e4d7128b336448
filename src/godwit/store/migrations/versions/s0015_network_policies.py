"""Network policies of apps."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "network_policies",
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("policies", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["app_id"], ["apps.id"], name=op.f("fk_network_policies_app_id_apps")
        ),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organizations.id"], name=op.f("fk_network_policies_org_id_organizations")
        ),
        sa.PrimaryKeyConstraint("app_id", name=op.f("pk_network_policies")),
    )


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
