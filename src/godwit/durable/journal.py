"""The journal: what was begun, which steps are done, what has ended. SQLite inside.

One subject (a machine, a deploy) has at most one unfinished operation. The list of steps is
written down when an operation begins, so a newer build finishes an old one with the steps it
began with. `begin` and `end` carry the caller's own writes into the same transaction.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from godwit.base import clock, errors, ids
from godwit.durable.database import Transaction, Writer

SCHEMA = (
    """
    CREATE TABLE operations (
        id TEXT PRIMARY KEY,
        subject TEXT NOT NULL,
        org_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        steps TEXT NOT NULL,
        input TEXT NOT NULL,
        begun_at_ms INTEGER NOT NULL,
        ended_at_ms INTEGER,
        outcome TEXT,
        message TEXT
    ) STRICT;
    CREATE UNIQUE INDEX one_unfinished ON operations (subject) WHERE ended_at_ms IS NULL;
    CREATE INDEX operations_by_subject ON operations (subject, id);
    CREATE TABLE entries (
        operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        step TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('done', 'trouble')),
        at_ms INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (operation_id, number)
    ) STRICT
    """,
)

_KEPT_OF_A_SUBJECT = 20

Outcome = Literal["done", "aborted", "superseded", "parked", "handed_off"]
Also = Callable[[Transaction], None]
"""The caller's own writes, in the same transaction."""


@dataclass(frozen=True)
class Intent:
    """An operation about to begin."""

    subject: str
    org_id: str
    kind: str
    steps: Sequence[str]
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run of an operation, as the journal knows it.

    Attributes:
        steps: Names, in order, as they were when it began.
        done: Output of each step that is recorded as done.
    """

    id: str
    subject: str
    org_id: str
    kind: str
    steps: tuple[str, ...]
    input: Mapping[str, Any]
    begun_at_ms: int
    done: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_done(self, step: str, output: Mapping[str, Any]) -> "Run":
        """Return the run with one more step done."""
        return replace(self, done={**self.done, step: output})


class Journal:
    """Begin, done, end, unfinished (and the troubles on the way)."""

    def __init__(self, database: Writer, clock: clock.Clock) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, intent: Intent, also: Also | None = None) -> Run:
        """Write down an operation and return its run.

        Raises:
            Failure: `conflict` when the subject has an unfinished one; names it.
        """

        def work(tx: Transaction) -> Run:
            run = self._begin(tx, intent)
            if also is not None:
                also(tx)
            return run

        return await self._database.write(work)

    async def done(self, run: Run, step: str, output: Mapping[str, Any]) -> Run:
        """Write down that a step is done and return the run with it.

        Not synced: after a power loss the step may run again, which steps allow.
        """
        body = json.dumps(output)
        await self._database.write(
            lambda tx: _add_entry(tx, run.id, (step, "done", self._clock.now_ms(), body)),
            synced=False,
        )
        return run.with_done(step, output)

    async def trouble(self, run: Run, step: str, text: str) -> None:
        """Write down what went wrong with a step; the same text once per run and step."""

        def work(tx: Transaction) -> None:
            known = tx.execute(
                "SELECT 1 FROM entries WHERE operation_id = ? AND step = ? AND kind = 'trouble'"
                " AND body = ?",
                (run.id, step, text),
            ).fetchone()
            if known is None:
                _add_entry(tx, run.id, (step, "trouble", self._clock.now_ms(), text))

        await self._database.write(work, synced=False)

    async def end(
        self,
        run: Run,
        outcome: Outcome,
        message: str = "",
        *,
        then: Intent | None = None,
        also: Also | None = None,
    ) -> Run | None:
        """Write down that an operation has ended, how, and what begins in its place.

        Returns:
            The run of `then`.
        """

        def work(tx: Transaction) -> Run | None:
            ended = tx.execute(
                "UPDATE operations SET ended_at_ms = ?, outcome = ?, message = ?"
                " WHERE id = ? AND ended_at_ms IS NULL",
                (self._clock.now_ms(), outcome, message, run.id),
            )
            if ended.rowcount != 1:
                raise errors.Failure("conflict", f"operation {run.id} has ended already")
            _prune(tx, run.subject)
            following = None if then is None else self._begin(tx, then)
            if also is not None:
                also(tx)
            return following

        return await self._database.write(work)

    async def unfinished(self) -> list[Run]:
        """Return every run that has begun and not ended, the oldest first."""
        return await self._database.read(_unfinished)

    async def troubles(self, subject: str) -> list[tuple[str, str]]:
        """Return (step, text) of what went wrong in a subject's kept operations, oldest first."""

        def work(tx: Transaction) -> list[tuple[str, str]]:
            rows = tx.execute(
                "SELECT step, body FROM entries JOIN operations ON operations.id = operation_id"
                " WHERE subject = ? AND entries.kind = 'trouble'"
                " ORDER BY operation_id, number",
                (subject,),
            )
            return [(row["step"], row["body"]) for row in rows]

        return await self._database.read(work)

    def _begin(self, tx: Transaction, intent: Intent) -> Run:
        now = self._clock.now_ms()
        run = Run(
            id=ids.ulid(now),
            subject=intent.subject,
            org_id=intent.org_id,
            kind=intent.kind,
            steps=tuple(intent.steps),
            input=dict(intent.input),
            begun_at_ms=now,
        )
        try:
            tx.execute(
                "INSERT INTO operations (id, subject, org_id, kind, steps, input, begun_at_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    run.id,
                    run.subject,
                    run.org_id,
                    run.kind,
                    json.dumps(run.steps),
                    json.dumps(run.input),
                    now,
                ),
            )
        except sqlite3.IntegrityError as error:
            running = tx.execute(
                "SELECT id, kind FROM operations WHERE subject = ? AND ended_at_ms IS NULL",
                (run.subject,),
            ).fetchone()
            if running is None:
                raise
            raise errors.Failure(
                "conflict", f"{run.subject} is busy with {running['kind']} ({running['id']})"
            ) from error
        return run


def forget(tx: Transaction, subject: str) -> None:
    """Remove a subject's history."""
    tx.execute("DELETE FROM operations WHERE subject = ?", (subject,))


def _add_entry(tx: Transaction, run_id: str, entry: tuple[str, str, int, str]) -> None:
    """Add (step, kind, time, body) to a run."""
    tx.execute(
        "INSERT INTO entries (operation_id, number, step, kind, at_ms, body) VALUES (?,"
        " (SELECT COALESCE(MAX(number), 0) + 1 FROM entries WHERE operation_id = ?), ?, ?, ?, ?)",
        (run_id, run_id, *entry),
    )


def _prune(tx: Transaction, subject: str) -> None:
    tx.execute(
        "DELETE FROM operations WHERE subject = ? AND ended_at_ms IS NOT NULL AND id NOT IN"
        " (SELECT id FROM operations WHERE subject = ? ORDER BY begun_at_ms DESC, id DESC"
        " LIMIT ?)",
        (subject, subject, _KEPT_OF_A_SUBJECT),
    )


def _unfinished(tx: Transaction) -> list[Run]:
    rows = tx.execute(
        "SELECT * FROM operations WHERE ended_at_ms IS NULL ORDER BY begun_at_ms, id"
    ).fetchall()
    found = []
    for row in rows:
        entries = tx.execute(
            "SELECT step, body FROM entries WHERE operation_id = ? AND kind = 'done'"
            " ORDER BY number",
            (row["id"],),
        )
        found.append(
            Run(
                id=row["id"],
                subject=row["subject"],
                org_id=row["org_id"],
                kind=row["kind"],
                steps=tuple(json.loads(row["steps"])),
                input=json.loads(row["input"]),
                begun_at_ms=row["begun_at_ms"],
                done={entry["step"]: json.loads(entry["body"]) for entry in entries},
            )
        )
    return found
