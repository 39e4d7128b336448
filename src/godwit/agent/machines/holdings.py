"""What a machine's owner keeps beside its record: lease, metadata, versions, secrets, memory.

Tables and SQL only; `leases`, `metadata`, `versions` and `memory` hold the rules. Each has rows of
its own, because the record is replaced whole by operations that run meanwhile.
"""

from typing import Any

from godwit.agent.machines import records
from godwit.durable.database import Transaction
from godwit.wire import guest_api, host_rpc
from godwit.wire.record import Record
from godwit.wire.secrets import HostSecrets

TABLES = """
    CREATE TABLE leases (
        machine_id TEXT PRIMARY KEY,
        org_id TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE versions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        machine_id TEXT NOT NULL,
        instance_id TEXT NOT NULL,
        org_id TEXT NOT NULL,
        record TEXT NOT NULL,
        UNIQUE (machine_id, instance_id)
    ) STRICT;
    CREATE TABLE metadata (
        machine_id TEXT NOT NULL,
        instance_id TEXT NOT NULL,
        org_id TEXT NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (machine_id, instance_id)
    ) STRICT;
    CREATE TABLE memory_limits (
        machine_id TEXT PRIMARY KEY,
        instance_id TEXT NOT NULL,
        org_id TEXT NOT NULL,
        limit_mb INTEGER NOT NULL
    ) STRICT
"""

SECRETS = """
    CREATE TABLE secrets (
        machine_id TEXT NOT NULL,
        instance_id TEXT NOT NULL,
        org_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (machine_id, instance_id)
    ) STRICT
"""
"""Sealed for this host, by the version of the machine they belong to."""

DEEDS = """
    CREATE TABLE deeds (
        id TEXT PRIMARY KEY,
        machine_id TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX deeds_by_machine ON deeds (machine_id, id)
"""
"""What machines did to themselves and control has not heard of; they outlive the machine."""

KEPT_VERSIONS = 50
_KEPT_DEEDS = 100
"""Of each machine: one that ends itself for ever while control is away fills no disk."""
_DEEDS_AT_ONCE = 100


class Held(Record):
    """A lease as stored.

    Attributes:
        minted_for: The version whose offer or update it came with; that, repeated, finds it again.
    """

    nonce: str
    expires_at_ms: int
    owner: str = ""
    description: str = ""
    minted_for: str = ""


class Kept(Record):
    """One version as stored."""

    instance_id: str
    image: host_rpc.ImageRef
    config: dict[str, Any]
    created_at_ms: int


class Written(Record):
    """Metadata of one version since their endpoint was written to."""

    instance_id: str
    values: dict[str, str]
    updated_at_ms: int


class Limit(Record):
    """What a machine at one version may use of its memory."""

    instance_id: str
    limit_mb: int


def put_lease(tx: Transaction, machine: records.Machine, held: Held | None) -> None:
    """Store who holds a machine's lease; `None` is nobody."""
    tx.execute("DELETE FROM leases WHERE machine_id = ?", (machine.machine_id,))
    if held is not None:
        tx.execute(
            "INSERT INTO leases VALUES (?, ?, ?)",
            (machine.machine_id, machine.org_id, held.model_dump_json()),
        )


def leases(tx: Transaction) -> dict[str, Held]:
    """Return every lease by its machine."""
    rows = tx.execute("SELECT machine_id, record FROM leases")
    return {row["machine_id"]: Held.model_validate_json(row["record"]) for row in rows}


def keep_version(tx: Transaction, machine: records.Machine) -> None:
    """Ensure the version in place is kept; the oldest beyond `KEPT_VERSIONS` go."""
    known = tx.execute(
        "SELECT 1 FROM versions WHERE machine_id = ? AND instance_id = ?",
        (machine.machine_id, machine.instance_id),
    ).fetchone()
    if known is not None:
        return
    kept = Kept(
        instance_id=machine.instance_id,
        image=machine.image,
        config=machine.config,
        created_at_ms=machine.updated_at_ms,
    )
    tx.execute(
        "INSERT INTO versions (machine_id, instance_id, org_id, record) VALUES (?, ?, ?, ?)",
        (machine.machine_id, machine.instance_id, machine.org_id, kept.model_dump_json()),
    )
    tx.execute(
        "DELETE FROM versions WHERE machine_id = ? AND id NOT IN"
        " (SELECT id FROM versions WHERE machine_id = ? ORDER BY id DESC LIMIT ?)",
        (machine.machine_id, machine.machine_id, KEPT_VERSIONS),
    )


def versions(tx: Transaction, machine_id: str) -> list[Kept]:
    """Return the versions kept of a machine, the newest first."""
    rows = tx.execute(
        "SELECT record FROM versions WHERE machine_id = ? ORDER BY id DESC", (machine_id,)
    )
    return [Kept.model_validate_json(row["record"]) for row in rows]


def put_metadata(tx: Transaction, machine: records.Machine, written: Written) -> None:
    """Store metadata; those of versions that are neither in place nor on their way go."""
    tx.execute(
        "DELETE FROM metadata WHERE machine_id = ? AND instance_id <> ?",
        (machine.machine_id, machine.instance_id),
    )
    tx.execute(
        "INSERT OR REPLACE INTO metadata VALUES (?, ?, ?, ?)",
        (machine.machine_id, written.instance_id, machine.org_id, written.model_dump_json()),
    )


def metadata(tx: Transaction) -> list[tuple[str, Written]]:
    """Return everything that was written, by machine."""
    rows = tx.execute("SELECT machine_id, record FROM metadata")
    return [(row["machine_id"], Written.model_validate_json(row["record"])) for row in rows]


def put_limit(tx: Transaction, machine: records.Machine, limit: Limit) -> None:
    """Store what a machine may use of its memory."""
    tx.execute(
        "INSERT OR REPLACE INTO memory_limits VALUES (?, ?, ?, ?)",
        (machine.machine_id, limit.instance_id, machine.org_id, limit.limit_mb),
    )


def limits(tx: Transaction) -> dict[str, Limit]:
    """Return every limit by its machine."""
    rows = tx.execute("SELECT * FROM memory_limits")
    return {row["machine_id"]: Limit.model_validate(dict(row)) for row in rows}


def put_secrets(
    tx: Transaction, machine: records.Machine, instance_id: str, sealed: HostSecrets
) -> None:
    """Store the secrets of a version that is in place or on its way."""
    tx.execute(
        "INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?, ?)",
        (
            machine.machine_id,
            instance_id,
            machine.org_id,
            sealed.version,
            sealed.model_dump_json(),
        ),
    )


def forget_secrets(tx: Transaction, machine_id: str, *, but: str = "") -> None:
    """Remove a machine's secrets, but for those of one version."""
    tx.execute("DELETE FROM secrets WHERE machine_id = ? AND instance_id <> ?", (machine_id, but))


def secrets(tx: Transaction, machine_id: str, instance_id: str) -> HostSecrets | None:
    """Return the secrets of a machine at a version."""
    row = tx.execute(
        "SELECT record FROM secrets WHERE machine_id = ? AND instance_id = ?",
        (machine_id, instance_id),
    ).fetchone()
    return None if row is None else HostSecrets.model_validate_json(row["record"])


def put_deed(tx: Transaction, deed: guest_api.Deed) -> None:
    """Store what a machine does to itself; the oldest of it beyond `_KEPT_DEEDS` go."""
    tx.execute(
        "INSERT INTO deeds VALUES (?, ?, ?)", (deed.id, deed.machine_id, deed.model_dump_json())
    )
    tx.execute(
        "DELETE FROM deeds WHERE machine_id = ? AND id NOT IN"
        " (SELECT id FROM deeds WHERE machine_id = ? ORDER BY id DESC LIMIT ?)",
        (deed.machine_id, deed.machine_id, _KEPT_DEEDS),
    )


def drop_deed(tx: Transaction, deed_id: str) -> None:
    """Remove what control has heard of, or what was not done."""
    tx.execute("DELETE FROM deeds WHERE id = ?", (deed_id,))


def deeds(tx: Transaction) -> list[guest_api.Deed]:
    """Return some of what control has not heard of, the oldest first."""
    rows = tx.execute("SELECT record FROM deeds ORDER BY id LIMIT ?", (_DEEDS_AT_ONCE,))
    return [guest_api.Deed.model_validate_json(row["record"]) for row in rows]


def drop(tx: Transaction, machine_id: str) -> None:
    """Remove everything kept of a machine."""
    for table in ("leases", "versions", "metadata", "memory_limits", "secrets"):
        # The names are this module's own.
        tx.execute(f"DELETE FROM {table} WHERE machine_id = ?", (machine_id,))  # noqa: S608
