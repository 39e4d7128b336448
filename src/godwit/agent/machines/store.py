"""The agent's tables: machines, their events, usage intervals.

SQL is fenced to here and, for what is kept beside a machine's record, to `holdings`.

Functions that take a `Transaction` are called inside one, together with the journal's own
writes; the methods of `Store` open their own.
"""

from collections.abc import Iterable

from godwit.agent.machines import holdings, records, usage
from godwit.base import clock, ids
from godwit.durable.database import Transaction, Writer
from godwit.wire import host_rpc

SCHEMA = (
    """
    CREATE TABLE machines (
        machine_id TEXT PRIMARY KEY,
        org_id TEXT NOT NULL,
        network_id TEXT NOT NULL,
        app_id TEXT NOT NULL,
        state TEXT NOT NULL,
        slot INTEGER,
        cordoned INTEGER NOT NULL,
        destroyed_at_ms INTEGER,
        record TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX machines_by_slot ON machines (slot) WHERE slot IS NOT NULL;
    CREATE TABLE events (
        id TEXT PRIMARY KEY,
        machine_id TEXT NOT NULL,
        org_id TEXT NOT NULL,
        key TEXT NOT NULL,
        record TEXT NOT NULL,
        UNIQUE (machine_id, key)
    ) STRICT;
    CREATE INDEX events_by_machine ON events (machine_id, id);
    CREATE TABLE usage (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        org_id TEXT NOT NULL,
        app_id TEXT NOT NULL,
        machine_id TEXT NOT NULL,
        host_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        cpu_kind TEXT NOT NULL,
        cpus INTEGER NOT NULL,
        memory_mb INTEGER NOT NULL,
        started_at_ms INTEGER NOT NULL,
        ended_at_ms INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX usage_open ON usage (machine_id, kind) WHERE ended_at_ms IS NULL;
    CREATE INDEX usage_by_org ON usage (org_id, id);
    CREATE TABLE facts_of_agent (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT
    """,
    holdings.TABLES,
    usage.TABLES,
    holdings.SECRETS,
    holdings.DEEDS,
)

_KEPT_EVENTS = 50


class EventIds:
    """Mints event ids that grow within this host, also when the clock does not."""

    def __init__(self, clock: clock.Clock) -> None:
        self._clock = clock
        self._newest_ms = 0

    def not_before(self, newest_ms: int) -> None:
        """Mint later ids than those of an earlier agent."""
        self._newest_ms = max(self._newest_ms, newest_ms)

    def mint(self) -> tuple[str, int]:
        """Return a new id and its time in milliseconds."""
        self._newest_ms = max(self._newest_ms + 1, self._clock.now_ms())
        return ids.ulid(self._newest_ms), self._newest_ms


class Store:
    """The agent's own tables, outside of operations."""

    def __init__(self, database: Writer) -> None:
        self._database = database

    async def machines(self) -> list[records.Machine]:
        """Return every machine, destroyed ones that are still kept included."""

        def work(tx: Transaction) -> list[records.Machine]:
            rows = tx.execute("SELECT record, cordoned FROM machines ORDER BY machine_id")
            return [
                records.Machine.model_validate_json(row["record"]).model_copy(
                    update={"cordoned": bool(row["cordoned"])}
                )
                for row in rows
            ]

        return await self._database.read(work)

    async def events(
        self, machine_id: str, limit: int, before: str | None = None
    ) -> list[records.Event]:
        """Return a machine's events, the newest first, those older than one when it is given."""

        def work(tx: Transaction) -> list[records.Event]:
            rows = tx.execute(
                "SELECT record FROM events WHERE machine_id = ? AND (? IS NULL OR id < ?)"
                " ORDER BY id DESC LIMIT ?",
                (machine_id, before, before, limit),
            )
            return [records.Event.model_validate_json(row["record"]) for row in rows]

        return await self._database.read(work)

    async def newest_event_ms(self) -> int:
        """Return the time of the newest event of all; 0 when there is none."""

        def work(tx: Transaction) -> int:
            row = tx.execute("SELECT record FROM events ORDER BY id DESC LIMIT 1").fetchone()
            return records.Event.model_validate_json(row["record"]).timestamp if row else 0

        return await self._database.read(work)

    async def write_machine(self, machine: records.Machine) -> None:
        """Store a machine's record."""
        await self._database.write(lambda tx: put_machine(tx, machine))

    async def usage(
        self, org_ids: frozenset[str] | None, after: int, limit: int
    ) -> list[host_rpc.UsageInterval]:
        """Return usage intervals after an id, of some organizations or all, oldest first."""

        def work(tx: Transaction) -> list[host_rpc.UsageInterval]:
            marks = "" if org_ids is None else f"AND org_id IN ({','.join('?' * len(org_ids))})"
            rows = tx.execute(
                f"SELECT * FROM usage WHERE id > ? {marks} ORDER BY id LIMIT ?",  # noqa: S608
                (after, *sorted(org_ids or ()), limit),
            )
            return [host_rpc.UsageInterval.model_validate(dict(row)) for row in rows]

        return await self._database.read(work)

    async def expire_usage(self, before_ms: int) -> None:
        """Drop the usage intervals that ended before a time."""
        while await self._database.write(lambda tx: usage.expire(tx, before_ms), synced=False):
            pass

    async def fact(self, name: str) -> str | None:
        """Return one of the agent's own facts (`revision`, `alive_at_ms`, `parked`)."""

        def work(tx: Transaction) -> str | None:
            row = tx.execute("SELECT value FROM facts_of_agent WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row["value"])

        return await self._database.read(work)

    async def facts(self, prefix: str) -> dict[str, str]:
        """Return those of the agent's own facts whose names begin so."""

        def work(tx: Transaction) -> dict[str, str]:
            rows = tx.execute(
                "SELECT name, value FROM facts_of_agent WHERE substr(name, 1, ?) = ?",
                (len(prefix), prefix),
            )
            return {row["name"]: row["value"] for row in rows}

        return await self._database.read(work)

    async def set_fact(self, name: str, value: str | None, *, synced: bool = True) -> None:
        """Set one of the agent's own facts; `None` removes it."""

        def work(tx: Transaction) -> None:
            tx.execute("DELETE FROM facts_of_agent WHERE name = ?", (name,))
            if value is not None:
                tx.execute("INSERT INTO facts_of_agent VALUES (?, ?)", (name, value))

        await self._database.write(work, synced=synced)

    async def drop(self, machine_id: str) -> None:
        """Remove what is kept of a machine that was destroyed long ago; usage stays."""

        def work(tx: Transaction) -> None:
            tx.execute("DELETE FROM events WHERE machine_id = ?", (machine_id,))
            tx.execute("DELETE FROM operations WHERE subject = ?", (machine_id,))
            tx.execute("DELETE FROM machines WHERE machine_id = ?", (machine_id,))
            holdings.drop(tx, machine_id)
            usage.forget(tx, machine_id)

        await self._database.write(work)


def put_machine(tx: Transaction, machine: records.Machine) -> None:
    """Store a machine's record; a destroyed one gives its slot back.

    Whether it is cordoned is set here only once: that belongs to `set_cordoned`.
    """
    destroyed = machine.state == "destroyed"
    tx.execute(
        "INSERT INTO machines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (machine_id) DO"
        " UPDATE SET state = excluded.state, slot = excluded.slot, record = excluded.record,"
        " destroyed_at_ms = excluded.destroyed_at_ms",
        (
            machine.machine_id,
            machine.org_id,
            machine.network_id,
            machine.app_id,
            machine.state,
            None if destroyed else machine.slot,
            machine.cordoned,
            machine.destroyed_at_ms,
            machine.model_dump_json(),
        ),
    )
    holdings.keep_version(tx, machine)
    if destroyed:
        holdings.forget_secrets(tx, machine.machine_id)


def set_cordoned(
    tx: Transaction, machine: records.Machine, told: Iterable[records.Event], *, cordoned: bool
) -> None:
    """Store whether edges may send a machine traffic, and the events that tell of it."""
    tx.execute(
        "UPDATE machines SET cordoned = ? WHERE machine_id = ?", (cordoned, machine.machine_id)
    )
    for event in told:
        add_event(tx, machine.org_id, event)


def add_event(tx: Transaction, org_id: str, event: records.Event) -> bool:
    """Store an event unless it is there; return whether it was new."""
    added = tx.execute(
        "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)",
        (event.id, event.machine_id, org_id, event.key, event.model_dump_json()),
    )
    tx.execute(
        "DELETE FROM events WHERE machine_id = ? AND id NOT IN"
        " (SELECT id FROM events WHERE machine_id = ? ORDER BY id DESC LIMIT ?)",
        (event.machine_id, event.machine_id, _KEPT_EVENTS),
    )
    return added.rowcount == 1


def open_usage(tx: Transaction, machine: records.Machine, host_id: str, at_ms: int) -> None:
    """Begin an interval of running, unless one is open."""
    tx.execute(
        "INSERT OR IGNORE INTO usage (org_id, app_id, machine_id, host_id, kind, cpu_kind, cpus,"
        " memory_mb, started_at_ms) VALUES (?, ?, ?, ?, 'running', ?, ?, ?, ?)",
        (
            machine.org_id,
            machine.app_id,
            machine.machine_id,
            host_id,
            machine.resources.cpu_kind,
            machine.resources.cpus,
            machine.resources.memory_mb,
            at_ms,
        ),
    )


def close_usage(tx: Transaction, machine_id: str, at_ms: int) -> None:
    """End the open interval, if there is one."""
    tx.execute(
        "UPDATE usage SET ended_at_ms = MAX(started_at_ms, ?)"
        " WHERE machine_id = ? AND ended_at_ms IS NULL",
        (at_ms, machine_id),
    )


def usage_opened_at(tx: Transaction, machine_id: str) -> int | None:
    """Return when the open interval began; `None` when none is open."""
    row = tx.execute(
        "SELECT started_at_ms FROM usage WHERE machine_id = ? AND ended_at_ms IS NULL",
        (machine_id,),
    ).fetchone()
    return None if row is None else int(row["started_at_ms"])
