"""Usage intervals: what each machine used in each stretch of time, cut at least hourly.

An interval begins when a machine's process runs and ends when it stops, is suspended or is
updated; `store` opens and closes them in the transaction of that change. Here their counters are
added up: at every end from what the kernel says then, and once a minute in between. What a VMM
uses while its machine boots belongs to the interval that the boot leads to.

An agent that is killed loses nothing, for the kernel goes on counting; a host that is reset
loses the counters since the last minute's round, and the running time since the last sign of
life. While no agent runs, no interval is cut.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

from godwit.agent import meters
from godwit.durable.database import Transaction, Writer

logger = logging.getLogger(__name__)

TABLES = """
    ALTER TABLE usage ADD COLUMN cpu_us INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN bytes_in INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN bytes_out INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE usage_counted (
        machine_id TEXT PRIMARY KEY,
        org_id TEXT NOT NULL,
        cpu_us INTEGER NOT NULL,
        cpu_of INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        bytes_of INTEGER NOT NULL
    ) STRICT
"""
LONGEST_MS = 3_600_000
"""An interval that is older is cut in two."""
_EXPIRED_AT_ONCE = 1_000
_COPIED = "org_id, app_id, machine_id, host_id, kind, cpu_kind, cpus, memory_mb"


def count(tx: Transaction, machine_id: str, reading: meters.Reading) -> bool:
    """Add what was used since it was last counted to the open interval; tell whether there is one.

    Counting the same reading again adds nothing.
    """
    opened = tx.execute(
        "SELECT id, org_id FROM usage WHERE machine_id = ? AND ended_at_ms IS NULL", (machine_id,)
    ).fetchone()
    if opened is None:
        return False
    row = tx.execute("SELECT * FROM usage_counted WHERE machine_id = ?", (machine_id,)).fetchone()
    before = dict(row) if row else {"cpu_of": 0, "bytes_of": 0}
    same_boot = reading.cpu_of == before["cpu_of"]
    same_tap = reading.bytes_of == before["bytes_of"]
    tx.execute(
        "UPDATE usage SET cpu_us = cpu_us + ?, bytes_in = bytes_in + ?,"
        " bytes_out = bytes_out + ?, disk_bytes = MAX(disk_bytes, ?) WHERE id = ?",
        (
            _more(reading.cpu_us, before.get("cpu_us", 0) if same_boot else 0),
            _more(reading.bytes_in, before.get("bytes_in", 0) if same_tap else 0),
            _more(reading.bytes_out, before.get("bytes_out", 0) if same_tap else 0),
            reading.disk_bytes,
            opened["id"],
        ),
    )
    tx.execute(
        "INSERT OR REPLACE INTO usage_counted VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            machine_id,
            opened["org_id"],
            reading.cpu_us,
            reading.cpu_of,
            reading.bytes_in,
            reading.bytes_out,
            reading.bytes_of,
        ),
    )
    return True


def cut(tx: Transaction, machine_id: str, at_ms: int) -> bool:
    """End the open interval if it is too old, and begin the next; tell whether it was."""
    opened = tx.execute(
        "SELECT id FROM usage WHERE machine_id = ? AND ended_at_ms IS NULL AND started_at_ms <= ?",
        (machine_id, at_ms - LONGEST_MS),
    ).fetchone()
    if opened is None:
        return False
    tx.execute("UPDATE usage SET ended_at_ms = ? WHERE id = ?", (at_ms, opened["id"]))
    tx.execute(
        f"INSERT INTO usage ({_COPIED}, started_at_ms)"  # noqa: S608 (names of columns)
        f" SELECT {_COPIED}, ended_at_ms FROM usage WHERE id = ?",
        (opened["id"],),
    )
    return True


def resize(tx: Transaction, machine_id: str, memory_mb: int, at_ms: int) -> None:
    """End the open interval of a machine whose memory changes, and begin the next."""
    opened = tx.execute(
        "SELECT id FROM usage WHERE machine_id = ? AND ended_at_ms IS NULL AND memory_mb <> ?",
        (machine_id, memory_mb),
    ).fetchone()
    if opened is None:
        return
    tx.execute(
        "UPDATE usage SET ended_at_ms = MAX(started_at_ms, ?) WHERE id = ?", (at_ms, opened["id"])
    )
    tx.execute(
        f"INSERT INTO usage ({_COPIED}, started_at_ms)"  # noqa: S608 (names of columns)
        f" SELECT {_COPIED}, ended_at_ms FROM usage WHERE id = ?",
        (opened["id"],),
    )
    tx.execute(
        "UPDATE usage SET memory_mb = ? WHERE machine_id = ? AND ended_at_ms IS NULL",
        (memory_mb, machine_id),
    )


def expire(tx: Transaction, before_ms: int) -> int:
    """Drop some of the oldest intervals that ended before a time; return how many."""
    dropped = tx.execute(
        "DELETE FROM usage WHERE id IN (SELECT id FROM usage ORDER BY id LIMIT ?)"
        " AND ended_at_ms < ?",
        (_EXPIRED_AT_ONCE, before_ms),
    )
    return dropped.rowcount


def forget(tx: Transaction, machine_id: str) -> None:
    """Drop what was counted of a machine that is gone; its intervals stay."""
    tx.execute("DELETE FROM usage_counted WHERE machine_id = ?", (machine_id,))


def _more(now: int, before: int) -> int:
    """Return what a counter grew by; one that went back began anew."""
    return now - before if now >= before else now


class Metering:
    """The minute's round over the running machines of one host.

    Args:
        running: Returns the machines that may run, by id, with their slots.
        now_ms: Returns Unix time.
    """

    def __init__(
        self,
        meter: meters.Meter,
        database: Writer,
        running: Callable[[], Mapping[str, int]],
        now_ms: Callable[[], int],
    ) -> None:
        self._meter = meter
        self._database = database
        self._running = running
        self._now_ms = now_ms

    async def round(self) -> None:
        """Count every running machine, and cut the intervals that are too old."""
        readings = self._meter.read(self._running())
        if not readings:
            return
        now_ms = self._now_ms()

        def work(tx: Transaction) -> int:
            for machine_id, reading in readings.items():
                count(tx, machine_id, reading)
            return _cut_all(tx, readings, now_ms)

        # Not synced: a reset loses a minute, a kill of the agent loses nothing.
        cuts = await self._database.write(work, synced=False)
        if cuts:
            logger.debug("%d usage intervals cut", cuts)


def _cut_all(tx: Transaction, machine_ids: Iterable[str], at_ms: int) -> int:
    return sum(cut(tx, machine_id, at_ms) for machine_id in machine_ids)
