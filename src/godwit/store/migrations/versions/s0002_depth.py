"""What the second release keeps besides: credentials of registries, changes in order, standbys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_registry_credentials()
    _order_changes_of_machines()
    _create_standbys()


def _create_registry_credentials() -> None:
    op.create_table(
        "registry_credentials",
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("registry", sa.String(length=255), nullable=False),
        sa.Column("username", sa.String(length=255), nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["org_id"],
            ["organizations.id"],
            name=op.f("fk_registry_credentials_org_id_organizations"),
        ),
        sa.PrimaryKeyConstraint("org_id", "registry", name=op.f("pk_registry_credentials")),
    )


def _order_changes_of_machines() -> None:
    op.add_column(
        "placements",
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False, server_default="0"),
    )
    op.execute(sa.text("UPDATE placements SET changed_at_ms = updated_at_ms"))
    op.create_index(
        "ix_placements_org_id_changed", "placements", ["org_id", "changed_at_ms", "machine_id"]
    )
    op.create_index("ix_placements_host_id", "placements", ["host_id"])


def _create_standbys() -> None:
    op.create_table(
        "standbys",
        sa.Column("machine_id", sa.String(length=14), nullable=False),
        sa.Column("watched_id", sa.String(length=14), nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("called_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organizations.id"], name=op.f("fk_standbys_org_id_organizations")
        ),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_standbys_app_id_apps")),
        sa.PrimaryKeyConstraint("machine_id", "watched_id", name=op.f("pk_standbys")),
    )
    op.create_index("ix_standbys_watched_id", "standbys", ["watched_id"])
    op.create_index("ix_standbys_called_at_ms", "standbys", ["called_at_ms"])
