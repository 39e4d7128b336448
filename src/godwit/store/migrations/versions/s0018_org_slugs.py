"""Facts of apps say their organization's slug: they are newer than what edges hold."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A new database begins where it always did.
    more = (
        "UPDATE meta SET revision = revision + 1"
        " WHERE EXISTS (SELECT 1 FROM apps WHERE deleted_at_ms IS NULL)"
    )
    op.execute(sa.text(more))
    # Tombstones stay older than a living app of the same name.
    newest = "UPDATE apps SET revision = (SELECT revision FROM meta) WHERE deleted_at_ms IS NULL"
    op.execute(sa.text(newest))


def downgrade() -> None:
    raise NotImplementedError("a database is never taken back; restore a copy instead")
