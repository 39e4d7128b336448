"""Secrets of apps, the keys that seal them, and the keys hosts are sealed to."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "hosts",
        sa.Column("sealing_key", sa.String(length=64), nullable=False, server_default=""),
    )
    _create_keys()
    _create_secrets()


def _create_keys() -> None:
    op.create_table(
        "app_secret_keys",
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("root_id", sa.String(length=40), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["app_id"], ["apps.id"], name=op.f("fk_app_secret_keys_app_id_apps")
        ),
        sa.ForeignKeyConstraint(
            ["org_id"],
            ["organizations.id"],
            name=op.f("fk_app_secret_keys_org_id_organizations"),
        ),
        sa.PrimaryKeyConstraint("app_id", name=op.f("pk_app_secret_keys")),
    )
    op.create_index(op.f("ix_app_secret_keys_root_id"), "app_secret_keys", ["root_id"])


def _create_secrets() -> None:
    op.create_table(
        "app_secrets",
        sa.Column("app_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("org_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_app_secrets_app_id_apps")),
        sa.ForeignKeyConstraint(
            ["org_id"], ["organizations.id"], name=op.f("fk_app_secrets_org_id_organizations")
        ),
        sa.PrimaryKeyConstraint("app_id", "name", name=op.f("pk_app_secrets")),
    )
