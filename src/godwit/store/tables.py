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
    # Random, and carried along by a move: which platform this is, whatever database it is in.
    sa.Column("platform", sa.String(32), nullable=False, server_default=""),
    # `home`; `arriving` while a move fills it; `moved` once the platform lives elsewhere.
    sa.Column("residence", sa.String(16), nullable=False, server_default="home"),
    sa.Column("move", sa.String(40), nullable=False, server_default=""),
    sa.Column("moved_to", sa.Text, nullable=False, server_default=""),
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
    sa.Column("replays_across_networks", sa.Boolean, nullable=False, server_default=sa.false()),
)

NETWORKS = sa.Table(
    "networks",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("addresses_given", sa.BigInteger, nullable=False, server_default="0"),
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
    sa.Column("app_ids", sa.JSON(none_as_null=True), nullable=True),
)

TOKEN_ORGANIZATIONS = sa.Table(
    "token_organizations",
    METADATA,
    sa.Column("token_id", sa.ForeignKey("tokens.id"), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), primary_key=True, index=True),
)

REGISTRY_CREDENTIALS = sa.Table(
    "registry_credentials",
    METADATA,
    sa.Column("org_id", sa.ForeignKey("organizations.id"), primary_key=True),
    sa.Column("registry", sa.String(255), primary_key=True),
    sa.Column("username", sa.String(255), nullable=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("nonce", sa.LargeBinary, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
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
    sa.Column("sealing_key", sa.String(64), nullable=False, server_default=""),
    sa.Column("roles", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("keys", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("mesh_key", sa.String(64), nullable=False, server_default=""),
    sa.Column("mesh_next_key", sa.String(64), nullable=False, server_default=""),
    sa.Column("endpoints", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("services", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("state", sa.String(16), nullable=False, server_default="active"),
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("release", sa.String(64), nullable=False, server_default=""),
)

JOIN_TOKENS = sa.Table(
    "join_tokens",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("region", sa.String(3), nullable=True),
    sa.Column("created_by", sa.String(400), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("used_by", sa.String(100), nullable=True),
    sa.Column("host_id", sa.String(40), nullable=True),
    sa.Column("used_at_ms", sa.BigInteger, nullable=True),
    sa.Column("revoked_at_ms", sa.BigInteger, nullable=True),
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

APP_SECRET_KEYS = sa.Table(
    "app_secret_keys",
    METADATA,
    sa.Column("app_id", sa.ForeignKey("apps.id"), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("key_id", sa.String(40), nullable=False),
    sa.Column("root_id", sa.String(40), nullable=False, index=True),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)

APP_SECRETS = sa.Table(
    "app_secrets",
    METADATA,
    sa.Column("app_id", sa.ForeignKey("apps.id"), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("key_id", sa.String(40), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("digest", sa.String(16), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)

KMS_KEYS = sa.Table(
    "kms_keys",
    METADATA,
    sa.Column("app_id", sa.ForeignKey("apps.id"), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("type", sa.String(20), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
)

NETWORK_POLICIES = sa.Table(
    "network_policies",
    METADATA,
    sa.Column("app_id", sa.ForeignKey("apps.id"), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("policies", sa.JSON, nullable=False),
)

RELEASES = sa.Table(
    "releases",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("image_ref", sa.Text, nullable=False),
    sa.Column("further_images", sa.JSON, nullable=False, server_default="[]"),
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

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("release_id", sa.ForeignKey("releases.id"), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("steps", sa.JSON, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("begun_at_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_at_ms", sa.BigInteger, nullable=True),
    sa.Column("outcome", sa.String(16), nullable=True),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("cancel_wanted", sa.Boolean, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(64), nullable=True),
    sa.Column("held_until_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_runs_app_id_id", "app_id", "id"),
    sa.Index("ix_runs_release_id", "release_id"),
)
_UNFINISHED = RUNS.c.ended_at_ms.is_(None)
sa.Index(
    "uq_runs_app_unfinished",
    RUNS.c.app_id,
    unique=True,
    sqlite_where=_UNFINISHED,
    postgresql_where=_UNFINISHED,
)

ADDRESSES = sa.Table(
    "addresses",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("ip", sa.String(45), nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("service_name", sa.String(200), nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("network_id", sa.String(40), nullable=True),
    sa.Column("sole", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_addresses_app_id", "app_id"),
)
_OWN_ADDRESS = ADDRESSES.c.type != "shared_v4"
sa.Index(
    "uq_addresses_ip_own",
    ADDRESSES.c.ip,
    unique=True,
    sqlite_where=_OWN_ADDRESS,
    postgresql_where=_OWN_ADDRESS,
)

UDP_CLAIMS = sa.Table(
    "udp_claims",
    METADATA,
    sa.Column("ip", sa.String(45), primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("wanted_at_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_udp_claims_app_id", "app_id"),
    sa.Index("ix_udp_claims_wanted_at_ms", "wanted_at_ms"),
)

RUN_ENTRIES = sa.Table(
    "run_entries",
    METADATA,
    sa.Column("run_id", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("org_id", sa.String(40), nullable=False),
    sa.Column("step", sa.String(100), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
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
    sa.Column("changed_at_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_placements_app_id_created", "app_id", "created_at_ms"),
    sa.Index("ix_placements_org_id_host_id", "org_id", "host_id"),
    sa.Index("ix_placements_org_id_changed", "org_id", "changed_at_ms", "machine_id"),
    sa.Index("ix_placements_host_id", "host_id"),
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

STANDBYS = sa.Table(
    "standbys",
    METADATA,
    sa.Column("machine_id", sa.String(14), primary_key=True),
    sa.Column("watched_id", sa.String(14), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("called_at_ms", sa.BigInteger, nullable=True),
    sa.Column("started_at_ms", sa.BigInteger, nullable=True),
    sa.Index("ix_standbys_watched_id", "watched_id"),
    sa.Index("ix_standbys_called_at_ms", "called_at_ms"),
)

RELOCATIONS = sa.Table(
    "relocations",
    METADATA,
    sa.Column("machine_id", sa.String(14), primary_key=True),
    sa.Column("org_id", sa.ForeignKey("organizations.id"), nullable=False),
    sa.Column("app_id", sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("region", sa.String(3), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("asked_by", sa.String(400), nullable=False),
    sa.Column("asked_at_ms", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("moved_to", sa.String(14), nullable=True),
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

PUBLICATIONS = sa.Table(
    "publications",
    METADATA,
    sa.Column("region", sa.String(8), primary_key=True),
    sa.Column("holder", sa.String(40), nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    # None while the region needs everything, whatever is in the outbox.
    sa.Column("position", sa.Integer, nullable=True),
)
