"""The tables as this release knows them; `migrations/` is how a database gets there.

Types are those SQLite and PostgreSQL share. Times are Unix milliseconds. A test holds these
against a migrated database.
"""

import sqlalchemy as sa

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

META = sa.Table(
    "meta",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

COUNTERS = sa.Table(
    "counters",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

ORGANIZATIONS = sa.Table(
    "organizations",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("slug", sa.String(63), nullable=False, unique=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

NETWORKS = sa.Table(
    "networks",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("org_id", "name"),
)

USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("email", sa.String(320), nullable=False, unique=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
)

TOKENS = sa.Table(
    "tokens",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=True),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("everywhere", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger, nullable=True),
    sa.Column("revoked_at_ms", sa.BigInteger, nullable=True),
)

TOKEN_ORGANIZATIONS = sa.Table(
    "token_organizations",
    METADATA,
    sa.Column("token_id", sa.ForeignKey("tokens.id"), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), primary_key=True, index=True),
)

HOSTS = sa.Table(
    "hosts",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("public_key", sa.String(100), nullable=False),
    sa.Column("region", sa.String(3), nullable=False, index=True),
    sa.Column("zone", sa.String(4), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("seen_at_ms", sa.BigInteger, nullable=False),
)

APPS = sa.Table(
    "apps",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("network_id", sa.ForeignKey("networks.id"), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("role", sa.String(63), nullable=False),
    sa.Column("idempotency_key", sa.String(200), nullable=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("deleted_at_ms", sa.BigInteger, nullable=True),
    sa.Index("ix_apps_org_id_name", "org_id", "name"),
    sa.Index("ix_apps_name_deleted", "name", "deleted_at_ms"),
)
_ALIVE_APP = APPS.c.deleted_at_ms.is_(None)
sa.Index(
    "uq_apps_name_alive",
    APPS.c.name,
    unique=True,
    sqlite_where=_ALIVE_APP,
    postgresql_where=_ALIVE_APP,
)
sa.Index(
    "uq_apps_idempotency",
    APPS.c.org_id,
    APPS.c.idempotency_key,
    unique=True,
    sqlite_where=_ALIVE_APP,
    postgresql_where=_ALIVE_APP,
)

RELEASES = sa.Table(
    "releases",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("image_ref", sa.Text, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("strategy", sa.String(32), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("user", sa.String(400), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("app_id", "version"),
)

PLACEMENTS = sa.Table(
    "placements",
    METADATA,
    sa.Column("machine_id", sa.String(14), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("network_id", sa.ForeignKey("networks.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("region", sa.String(3), nullable=False),
    sa.Column("host_id", sa.String(40), nullable=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("instance_id", sa.String(26), nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("view", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("view_epoch", sa.BigInteger, nullable=False),
    sa.Column("view_revision", sa.BigInteger, nullable=False),
    sa.Column("destroy_wanted", sa.Boolean, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
    sa.Column("destroyed_at_ms", sa.BigInteger, nullable=True),
    sa.Index("ix_placements_app_id_created", "app_id", "created_at_ms"),
    sa.Index("ix_placements_org_id_host_id", "org_id", "host_id"),
)
_NAMED = PLACEMENTS.c.destroyed_at_ms.is_(None) & (PLACEMENTS.c.status != "abandoned")
sa.Index(
    "uq_placements_name_alive",
    PLACEMENTS.c.app_id,
    PLACEMENTS.c.name,
    unique=True,
    sqlite_where=_NAMED,
    postgresql_where=_NAMED,
)
_OFFERED = PLACEMENTS.c.status == "offered"
sa.Index(
    "ix_placements_offered",
    PLACEMENTS.c.created_at_ms,
    sqlite_where=_OFFERED,
    postgresql_where=_OFFERED,
)
_UNWANTED = PLACEMENTS.c.destroyed_at_ms.is_(None) & (
    PLACEMENTS.c.destroy_wanted | (PLACEMENTS.c.status == "abandoned")
)
sa.Index(
    "ix_placements_unwanted",
    PLACEMENTS.c.updated_at_ms,
    sqlite_where=_UNWANTED,
    postgresql_where=_UNWANTED,
)

MACHINE_VERSIONS = sa.Table(
    "machine_versions",
    METADATA,
    sa.Column("version", sa.String(26), primary_key=True),
    sa.Column("machine_id", sa.String(14), nullable=False),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_machine_versions_machine_id_created", "machine_id", "created_at_ms"),
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.String(400), nullable=False),
    sa.Column("org_id", sa.String(40), nullable=True),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(200), nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("ix_audit_org_id_id", "org_id", "id"),
)

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("fact", sa.JSON, nullable=False),
)
