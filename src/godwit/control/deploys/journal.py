"""A run's journal in control's database: the runner's, and what people read.

Every write first goes on holding the run under its fence, in the same transaction: who has lost
it writes nothing. Each also prolongs the hold.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from godwit.control import audit
from godwit.control.context import Context
from godwit.control.deploys.order import Order
from godwit.control.records import ReleaseStatus, RunEntryKind, RunOutcome, RunRow
from godwit.control.rows import Rows
from godwit.durable.journal import Run

HELD_MS = 15_000
"""How long a run stays with a control that is not heard of any more."""

_LAST = ("retire_blues", "retire_replaced", "destroy_removed")
"""Steps that destroy what a deploy would need on its way back; what resists is told."""

TURNED = "turned"
"""Marks that the run goes back, and why."""

Level = Literal["step", "state", "warning", "error"]
Outcome = RunOutcome

_KEPT_RUNS = 50
_MOST = 100_000
_STATUS: Mapping[str, ReleaseStatus] = {
    "complete": "complete",
    "failed": "failed",
    "cancelled": "interrupted",
}


def past_return(steps: Sequence[str], done: Collection[str]) -> bool:
    """Tell whether a run goes on to its end, whatever happens: what it replaced may be gone."""
    first = next((number for number, name in enumerate(steps) if name in _LAST), 0)
    return first > 0 and steps[first - 1] in done


class Fenced(Exception):
    """Somebody else carries this run now, or it has ended."""


class CancelWanted(Exception):
    """The run is to be cancelled."""


@dataclass
class _Waiting:
    """An entry on its way into the database."""

    step: str
    kind: RunEntryKind
    body: dict[str, Any]
    written: bool = False


class RunJournal:
    """The journal of one run, as long as it is held."""

    def __init__(self, ctx: Context, row: RunRow, order: Order) -> None:
        self._ctx = ctx
        self._row = row
        self._order = order
        self._said: set[tuple[str, str, str]] = set()
        self._last: dict[str, str] = {}
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def load(self) -> Run:
        """Return the run with what is recorded as done."""
        async with self._ctx.store.read() as rows:
            row = await rows.runs.get(self._row.id)
            entries = await rows.runs.entries(self._row.id, 0, _MOST)
        if row is None or row.fence != self._row.fence or row.ended_at_ms is not None:
            raise Fenced
        done = {one.step: one.body for one in entries if one.kind == "done"}
        for one in entries:
            if one.kind != "trouble" and "message" in one.body:
                self._remember(one.body)
        return Run(
            id=row.id,
            subject=f"deploy {row.id}",
            org_id=row.org_id,
            kind=row.kind,
            steps=tuple(row.steps),
            input=row.input,
            begun_at_ms=row.begun_at_ms,
            done=done,
        )

    async def hold(self) -> bool:
        """Go on holding the run; tell whether it is to be cancelled."""
        async with self._writing() as rows:
            return await rows.runs.cancel_wanted(self._row.id)

    async def done(self, run: Run, step: str, output: Mapping[str, Any]) -> Run:
        """Write down that a step is done and return the run with it.

        Raises:
            CancelWanted: It is to be cancelled, and goes back instead.
        """
        async with self._writing() as rows:
            forward = TURNED not in run.done and not past_return(run.steps, run.done)
            if forward and await rows.runs.cancel_wanted(self._row.id):
                raise CancelWanted
            await self._add(rows, step, "done", dict(output))
        return run.with_done(step, output)

    async def trouble(self, run: Run, step: str, text: str) -> None:
        """Write down what went wrong with a step; the same text once per run and step."""
        del run
        if ("trouble", step, text) in self._said:
            return
        async with self._writing() as rows:
            await self._add(rows, step, "trouble", {"level": "warning", "message": text})
        self._said.add(("trouble", step, text))

    async def event(
        self, level: Level, message: str, *, group: str = "", machine_id: str = ""
    ) -> None:
        """Write down what happened, unless that was the last that was said of it."""
        body = _body(level, message, group, machine_id)
        if not self._known(body):
            await self._put(_Waiting(level, "event", body))

    async def mark(self, name: str, message: str, *, group: str, machine_id: str) -> None:
        """Write down that a part of a step is done, as an event that people read too."""
        await self._put(_Waiting(name, "done", _body("state", message, group, machine_id)))

    async def marked(self) -> frozenset[str]:
        """Return the names of everything that is done."""
        return frozenset((await self.load()).done)

    async def turn(self, run: Run, steps: Sequence[str], outcome: Outcome, message: str) -> Run:
        """Write down that the run goes back, by which steps, and why."""
        why = {"outcome": outcome, "error": message}
        async with self._writing() as rows:
            await rows.runs.turn(run.id, [*run.steps, *steps])
            await self._add(rows, TURNED, "done", why)
        return await self.load()

    async def end(self, outcome: Outcome, message: str) -> None:
        """Write down how the run ended, and its release with it."""
        now_ms, order = self._ctx.clock.now_ms(), self._order
        async with self._writing() as rows:
            await rows.runs.end(self._row.id, outcome, message, now_ms)
            await rows.releases.set_status(order.release_id, _STATUS[outcome], message, now_ms)
            await audit.record(
                rows,
                self._ctx.clock,
                order.who,
                "deploys.end",
                self._row.id,
                org_id=order.org_id,
                app=order.app,
                version=order.version,
                outcome=outcome,
            )
            await rows.runs.forget(order.app_id, _KEPT_RUNS)

    async def let_go(self) -> None:
        """Leave the run to whoever comes next."""
        async with self._ctx.store.write() as rows:
            await rows.runs.let_go(self._row.id, self._row.fence)

    async def _put(self, entry: "_Waiting") -> None:
        """Write an entry down, together with those of others that wait meanwhile.

        A database that syncs takes as long for one as for ten.
        """
        self._waiting.append(entry)
        async with self._turn:
            if entry.written:
                return
            batch, self._waiting = self._waiting, []
            try:
                async with self._writing() as rows:
                    for one in batch:
                        await self._add(rows, one.step, one.kind, one.body)
                for one in batch:
                    one.written = True
                    self._remember(one.body)
            finally:
                # What was not written is tried by those whose it is.
                self._waiting[:0] = [one for one in batch if not (one.written or one is entry)]

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[Rows]:
        until_ms = self._ctx.clock.now_ms() + HELD_MS
        async with self._ctx.store.write() as rows:
            if not await rows.runs.hold(self._row.id, self._row.fence, until_ms):
                raise Fenced
            yield rows

    async def _add(
        self,
        rows: Rows,
        step: str,
        kind: RunEntryKind,
        body: dict[str, Any],
    ) -> None:
        await rows.runs.add_entry(self._row, step, kind, body, self._ctx.clock.now_ms())

    def _known(self, body: Mapping[str, Any]) -> bool:
        about = str(body["machine_id"])
        if body["level"] == "state" and about:
            return bool(self._last.get(about) == body["message"])
        return (str(body["level"]), about, str(body["message"])) in self._said

    def _remember(self, body: Mapping[str, Any]) -> None:
        about = str(body.get("machine_id", ""))
        self._said.add((str(body.get("level", "")), about, str(body["message"])))
        self._last[about] = str(body["message"])


def _body(level: Level, message: str, group: str, machine_id: str) -> dict[str, Any]:
    return {"level": level, "group": group, "machine_id": machine_id, "message": message}
