"""Machines that somebody wants elsewhere."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "relocations",
        sa.Column("machine_id", sa.String(length=14), nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("region", sa.String(length=3), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("asked_by", sa.String(length=400), nullable=False),
        sa.Column("asked_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("moved_to", sa.String(length=14), nullable=True),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organizations.id"], name=op.f("fk_relocations_org_id_organizations")
        ),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_relocations_app_id_apps")),
        sa.PrimaryKeyConstraint("machine_id", name=op.f("pk_relocations")),
    )
    op.create_index(op.f("ix_relocations_state"), "relocations", ["state"])


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
