"""One task per machine: takes in events and requests, runs the one operation, tells the world.

A driver is the only caller of the runner for its machine, so nothing here locks. Guest events
(the process ended, the VM broke away) come before requests. Everything that changes what the
machine rests in is one transaction: the end of an operation, the new state, its events, and the
beginning of what follows.
"""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from godwit.agent.machines import (
    events,
    exits,
    face,
    lifecycle,
    operations,
    policy,
    records,
    store,
    views,
    waits,
    work,
)
from godwit.base import errors, tasks
from godwit.durable import journal, runner
from godwit.durable.database import Transaction
from godwit.images.config import ImageConfig
from godwit.wire import host_rpc, shim

logger = logging.getLogger(__name__)

_MAX_ASKED = 32
_LOOK_AGAIN_S = 0.5
_AFTER_BUG_S = 1.0
_NO_DISK_S = 2.0


@dataclass(frozen=True)
class Shared:
    """What all drivers of a host use.

    Attributes:
        hold: Takes what a machine needs from the books; raises when it does not fit.
        changed: Told after every change of a machine.
        revision: Returns the next revision.
    """

    host: work.Host
    journal: journal.Journal
    runner: runner.Runner[work.Work]
    tasks: tasks.Tasks
    hold: Callable[[str, host_rpc.Resources], None]
    changed: Callable[["Driver"], None]
    revision: Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """A guest event: what ran has ended, and the record of how, if there is one."""

    record: shim.ExitRecord | None


@dataclass(eq=False)
class Asked:
    """A request in the mailbox; `answer` is set once its fate is on disk."""

    request: lifecycle.Request
    input: Mapping[str, Any]
    answer: "asyncio.Future[str]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Driver:
    """Drives one machine."""

    def __init__(
        self,
        shared: Shared,
        machine: records.Machine,
        run: journal.Run | None,
        known: tuple[records.Event, ...] = (),
    ) -> None:
        self._shared = shared
        self._machine = machine
        self._run = run
        self._face = face.Face(shared.host.network, shared.revision, known)
        self._sentence = machine.sentence
        self._lost_at_ms: int | None = None
        self._ended: deque[Ended] = deque()
        self._asked: deque[Asked] = deque()
        self._wake = asyncio.Event()
        self._working: asyncio.Task[tuple[journal.Run, runner.Ending]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._publish()

    @property
    def snapshot(self) -> views.Snapshot:
        """Return the machine as it is now."""
        return self._face.snapshot

    @property
    def machine(self) -> records.Machine:
        """Return the stored record."""
        return self._machine

    @property
    def operation(self) -> lifecycle.Kind | None:
        """Return the kind of the running operation."""
        return views.operation(self._run)

    @property
    def run(self) -> journal.Run | None:
        """Return the running operation as the journal knows it."""
        return self._run

    # -- asked from outside -------------------------------------------------------------

    async def ask(self, request: lifecycle.Request, given: Mapping[str, Any]) -> str:
        """Ask for something; return the public state before, once the wish is on disk.

        Raises:
            Failure: The machine cannot do that now.
        """
        if len(self._asked) >= _MAX_ASKED:
            raise errors.Failure("rate_limited", "too many requests wait for this machine")
        asked = Asked(request, given)
        self._asked.append(asked)
        if self._over:
            self._refuse_the_rest()
        self._wake.set()
        try:
            return await asked.answer
        finally:
            if not asked.answer.done():
                asked.answer.cancel()

    async def set_cordoned(self, *, cordoned: bool) -> None:
        """Store whether edges may send traffic."""
        machine_id = self._machine.machine_id
        await self._shared.host.database.write(
            lambda tx: store.set_cordoned(tx, machine_id, cordoned=cordoned)
        )
        self._machine = self._machine.model_copy(update={"cordoned": cordoned})
        self._publish()

    async def mark_forgotten(self) -> None:
        """Store that the directory of this destroyed machine is gone."""
        changed = self._machine.model_copy(update={"forgotten": True})
        await self._shared.host.database.write(lambda tx: store.put_machine(tx, changed))
        self._machine = changed

    async def wait(self, wanted: waits.Wanted) -> waits.Answer:
        """Return once a wait is over. Never `Pending`; the caller brings the deadline."""
        return await self._face.wait(wanted)

    async def next_change(self) -> None:
        """Return once the snapshot has been replaced."""
        await self._face.next_change()

    def touch(self) -> None:
        """Tell the world again: something beside the state has changed."""
        self._publish()

    # -- the one task -------------------------------------------------------------------

    async def live(self) -> None:
        """Drive the machine until it is destroyed."""
        while True:
            try:
                self._get_going()
                if self._over:
                    self._refuse_the_rest()
                    return
                await self._wake.wait()
                self._wake.clear()
                await self._turn()
            except sqlite3.Error as error:
                # Disk full or the like: nothing was committed, so the same is tried again.
                logger.warning(
                    "%s: the journal cannot be written: %s", self._machine.machine_id, error
                )
                self._say(f"the agent's database cannot be written: {error}")
                await self._shared.host.clock.sleep(_NO_DISK_S)
                self._wake.set()
            except Exception:
                # The guard of a machine's task: a bug in one turn must not orphan the machine.
                logger.exception("%s: a turn failed", self._machine.machine_id)
                await self._shared.host.clock.sleep(_AFTER_BUG_S)
                self._wake.set()

    @property
    def _over(self) -> bool:
        return self._machine.state == "destroyed" and self._run is None

    def _get_going(self) -> None:
        """Ensure the running operation has its task, or the resting VM its watcher."""
        if self._run is not None:
            if self._working is None:
                self._working = self._spawn(self._work(self._run), self._run.kind)
        elif self._machine.state == "started" and not self._ended and self._watches_no_more:
            self._watching = self._spawn(self._watch(), "watch")

    @property
    def _watches_no_more(self) -> bool:
        return self._watching is None or self._watching.done()

    async def _turn(self) -> None:
        """Take in one thing: an operation's end, else an event, else a request."""
        if self._working is not None and self._working.done():
            await self._take_in_ending()
        elif self._ended and self._run is None:
            await self._take_in_exit(self._ended[0])
            self._ended.clear()
        elif self._asked and not self._ended:
            await self._judge_requests()
            return
        if self._asked or self._ended:
            self._wake.set()

    async def _judge_requests(self) -> None:
        """Judge every request in turn; those that must wait for the operation stay."""
        for asked in tuple(self._asked):
            if asked.answer.done():
                self._asked.remove(asked)
                continue
            try:
                judged = await self._judge(asked)
            except errors.Failure as failure:
                if not asked.answer.done():
                    asked.answer.set_exception(failure)
                judged = True
            if judged:
                self._asked.remove(asked)

    async def _judge(self, asked: Asked) -> bool:
        """Judge one request; return whether it has its answer."""
        before = self.snapshot.shown
        verdict = lifecycle.decide(self._machine.state, self.operation, asked.request)
        if isinstance(verdict, lifecycle.Refuse):
            raise errors.Failure(verdict.code, verdict.sentence)
        if isinstance(verdict, lifecycle.Run):
            if self._run is not None and not verdict.at_once:
                return False
            self._check_version(asked)
            self._reserve(verdict.kind, asked.input)
            await self._begin(verdict.kind, {**asked.input, "requested": True})
        if not asked.answer.done():
            asked.answer.set_result(before)
        return True

    def _refuse_the_rest(self) -> None:
        for asked in self._asked:
            if not asked.answer.done():
                verdict = lifecycle.decide("destroyed", None, asked.request)
                if isinstance(verdict, lifecycle.Refuse):
                    asked.answer.set_exception(errors.Failure(verdict.code, verdict.sentence))
                else:
                    asked.answer.set_result("destroyed")
        self._asked.clear()

    def _check_version(self, asked: Asked) -> None:
        expected = asked.input.get("update", {}).get("current_version")
        if expected and expected != self.snapshot.version:
            raise errors.Failure(
                "conflict",
                f"the machine is at version {self.snapshot.version}, not {expected}",
                hint="read the machine again and repeat the update",
            )

    def _reserve(self, kind: lifecycle.Kind, given: Mapping[str, Any]) -> None:
        """Take from the books what the operation will need.

        Raises:
            Failure: `insufficient_capacity`; nothing has changed then.
        """
        if lifecycle.COURSES[kind].target != "started":
            return
        needs = self._machine.resources
        if kind == "update":
            needs = host_rpc.Update.model_validate(given["update"]).resources
            if self._machine.state == "started":
                needs = views.larger(needs, self._machine.resources)
        self._shared.hold(self._machine.machine_id, needs)

    # -- operations ---------------------------------------------------------------------

    async def _begin(self, kind: lifecycle.Kind, given: Mapping[str, Any]) -> None:
        """Begin an operation, breaking off what is in its way."""
        await self._stop_working()
        await self._stop_watching()
        given = {**given, "from_rest": self._run is None}
        intent = self._intent(kind, given)
        machine = self._machine
        if kind in ("start", "restart", "update", "replace"):
            machine = machine.model_copy(update={"restarts": records.Restarts(), "sentence": ""})
        if kind == "relaunch":
            after = records.Restarts.model_validate(given["restarts"])
            machine = machine.model_copy(update={"restarts": after})
        opening = events.opening(self._shared.host.event_ids, machine, kind, given)

        def also(tx: Transaction) -> None:
            store.put_machine(tx, machine)
            for event in opening:
                store.add_event(tx, machine.org_id, event)

        if self._run is None:
            run = await self._shared.journal.begin(intent, also)
        else:
            broken_off = f"{kind} came in its way"
            following = await self._shared.journal.end(
                self._run, "superseded", broken_off, then=intent, also=also
            )
            run = _never_none(following)
        self._ended.clear()
        self._enter(machine, run, opening)

    def _intent(self, kind: lifecycle.Kind, given: Mapping[str, Any]) -> journal.Intent:
        return journal.Intent(
            subject=self._machine.machine_id,
            org_id=self._machine.org_id,
            kind=kind,
            steps=operations.OPERATIONS[kind].steps,
            input=given,
        )

    async def _work(self, run: journal.Run) -> tuple[journal.Run, runner.Ending]:
        doing = work.Work(self._shared.host, run, lambda: self._machine, self._take_in_change)
        return await self._shared.runner.run(run, doing, self._progress)

    async def _take_in_ending(self) -> None:
        """The operation's task is over: write down how, and begin what follows."""
        task, self._working = self._working, None
        if task is None or self._run is None:
            return
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            # Not an ending: the journal could not be written. The run is unfinished still.
            self._working = None
            raise error
        run, ending = task.result()
        self._run = run
        if isinstance(ending, runner.Done):
            await self._finish(run)
        elif isinstance(ending, runner.HandedOff):
            kind = views.kind_of(ending.kind)
            await self._follow(run, "handed_off", "", kind, ending.input)
        elif isinstance(ending, runner.Parked) or views.kind_of(run.kind) in _DOWN:
            await self._park(run, ending)
        else:
            await self._give_up(run, ending)

    async def _finish(self, run: journal.Run) -> None:
        """The operation is done: rest in its target."""
        kind = views.kind_of(run.kind)
        target = lifecycle.leads_to(self._machine.state, kind)
        sentence = str(run.input.get("sentence") or "")
        if kind == "clear":
            sentence = self._machine.sentence
        await self._rest(run, "done", target, sentence)

    async def _give_up(self, run: journal.Run, ending: runner.Aborted) -> None:
        """The operation cannot succeed: take down what it left, or leave what it did not touch."""
        logger.info("%s: %s given up: %s", run.subject, run.kind, ending.message)
        self._shared.host.log.write(run.subject, f"{run.kind} failed: {ending.message}")
        kind = views.kind_of(run.kind)
        harmless = operations.OPERATIONS[kind].harmless
        untouched = len(run.done) < harmless and run.input.get("from_rest") is True
        if untouched and self._machine.state != "created":
            sentence = f"{run.kind} failed: {ending.message}"
            await self._rest(run, "aborted", self._machine.state, sentence, ending.message)
            return
        given = {"sentence": ending.message, "source": "flyd"}
        await self._follow(run, "aborted", ending.message, "fail", given)

    async def _park(self, run: journal.Run, ending: runner.Aborted | runner.Parked) -> None:
        """A bug, or a step this build lacks."""
        logger.error("%s: %s parked: %s", run.subject, run.kind, ending.message)
        self._shared.host.log.write(run.subject, f"{run.kind} failed: {ending.message}")
        course = lifecycle.COURSES[views.kind_of(run.kind)]
        unknown = ending.step not in self._shared.runner.known
        if course.tearing_down or unknown:
            await self._rest(run, "parked", "failed", ending.message, ending.message)
        else:
            given = {"sentence": ending.message, "source": "flyd"}
            await self._follow(run, "parked", ending.message, "fail", given)

    async def _follow(
        self,
        run: journal.Run,
        outcome: journal.Outcome,
        message: str,
        kind: lifecycle.Kind,
        given: Mapping[str, Any],
    ) -> None:
        """End an operation and begin the next in one transaction."""
        intent = self._intent(kind, given)
        following = await self._shared.journal.end(run, outcome, message, then=intent)
        self._enter(self._machine, _never_none(following), ())

    async def _rest(
        self,
        run: journal.Run,
        outcome: journal.Outcome,
        state: lifecycle.State,
        sentence: str,
        message: str = "",
    ) -> None:
        """End an operation: its end, the new state, its events and usage are one commit."""
        host = self._shared.host
        now_ms = host.clock.now_ms()
        changes: dict[str, Any] = {"state": state, "sentence": sentence, "updated_at_ms": now_ms}
        if state == "destroyed":
            changes["destroyed_at_ms"] = now_ms
        if outcome == "done" and "boot" in run.done:
            changes["started_at_ms"] = int(run.done["boot"]["started_at_ms"])
            image = ImageConfig.model_validate(run.done["fetch_image"]["config"])
            changes["image_config"] = image
        machine = self._machine.model_copy(update=changes)
        closing = events.closing(host.event_ids, machine, run, outcome)

        def also(tx: Transaction) -> None:
            store.put_machine(tx, machine)
            for event in closing:
                store.add_event(tx, machine.org_id, event)
            if "started_at_ms" in changes:
                store.open_usage(tx, machine, host.host_id, changes["started_at_ms"])

        await self._shared.journal.end(run, outcome, message, also=also)
        self._enter(machine, None, closing)

    # -- guest events -------------------------------------------------------------------

    async def _watch(self) -> None:
        """Watch a started VM until it has ended; then say so."""
        vmm, machine_id = self._shared.host.vmm, self._machine.machine_id
        while True:
            try:
                if await self._saw_the_end() or machine_id not in await vmm.observed():
                    record = await vmm.exit_record(machine_id, self._machine.instance_id)
                    self._ended.append(Ended(record))
                    self._wake.set()
                    return
            except (OSError, ValueError, errors.Failure) as error:
                logger.info("%s: watching again: %s", machine_id, error)
            await self._shared.host.clock.sleep(_LOOK_AGAIN_S)

    async def _saw_the_end(self) -> bool:
        session = await self._shared.host.vmm.connect(self._machine.machine_id)
        if session is None:
            return False
        try:
            async for status in session.changes():
                if status.phase == "exited":
                    return True
        finally:
            await session.close()
        return False

    async def _take_in_exit(self, ended: Ended) -> None:
        """What ran has ended by itself: by the restart policy, again or not."""
        machine, host = self._machine, self._shared.host
        if machine.state != "started":
            return
        code, sentence = exits.UNKNOWN_CODE, exits.LOST
        if ended.record is not None:
            told = exits.of_record(ended.record)
            code, sentence = told.code, told.sentence
        logger.info("%s: %s", machine.machine_id, sentence)
        now_ms = host.clock.now_ms()
        then = policy.after_exit(machine, code, now_ms)
        given: dict[str, Any] = {"ended_at_ms": self._lost_at_ms}
        self._lost_at_ms = None
        if isinstance(then, policy.Relaunch):
            given |= {"restarts": then.restarts.model_dump()}
            await self._begin("relaunch", given | {"until_ms": now_ms + then.wait_ms})
        elif isinstance(then, policy.Destroy):
            await self._begin("destroy", given)
        else:
            await self._begin("settle", given | {"sentence": then.sentence})

    def lost_before(self, at_ms: int) -> None:
        """Take in that the VM was gone when the agent came back; before `live`.

        The watcher finds it so; a VM that left no record ended at `at_ms` at the latest.
        """
        self._lost_at_ms = at_ms

    async def begin_recovery(self, kind: lifecycle.Kind) -> None:
        """Begin what recovery decided, in place of an unfinished operation; before `live`."""
        given = dict(self._run.input) if self._run is not None else {"source": "flyd"}
        await self._begin(kind, given)

    async def park_unknown(self, step: str) -> None:
        """Leave the machine failed: this build lacks a step of its operation; before `live`."""
        if self._run is not None:
            message = f"this version of Godwit has no step {step!r} of {self._run.kind!r}"
            await self._rest(self._run, "parked", "failed", message, message)

    # -- telling ------------------------------------------------------------------------

    def _enter(
        self,
        machine: records.Machine,
        run: journal.Run | None,
        new: tuple[records.Event, ...],
    ) -> None:
        """Take up a new state or operation in memory, after it was committed."""
        # Cordon has a write of its own, which may have come meanwhile.
        self._machine = machine.model_copy(update={"cordoned": self._machine.cordoned})
        self._run = run
        self._sentence = machine.sentence if run is None else ""
        self._face.add(new)
        if run is not None:
            self._face.begin_trail(run.kind)
        self._publish()
        self._wake.set()

    def _take_in_change(self, machine: records.Machine, new: tuple[records.Event, ...]) -> None:
        """A step stored a changed record or an event."""
        self._machine = machine.model_copy(update={"cordoned": self._machine.cordoned})
        self._face.add(new)
        self._publish()

    def _progress(self, run: journal.Run, sentence: str) -> None:
        self._run = run
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        if sentence != self._sentence:
            self._sentence = sentence
            self._publish()

    def _publish(self) -> None:
        self._face.show(self._machine, self._run, self._sentence)
        self._shared.changed(self)

    # -- its tasks ----------------------------------------------------------------------

    def _spawn(self, coroutine: Any, name: str) -> Any:
        task = self._shared.tasks.spawn(coroutine, name=f"{self._machine.machine_id}.{name}")
        task.add_done_callback(lambda _: self._wake.set())
        return task

    async def _stop_working(self) -> None:
        task, self._working = self._working, None
        await _cancelled(task)

    async def _stop_watching(self) -> None:
        task, self._watching = self._watching, None
        await _cancelled(task)


_DOWN = frozenset(kind for kind, course in lifecycle.COURSES.items() if course.tearing_down)


def _never_none(run: journal.Run | None) -> journal.Run:
    if run is None:
        raise AssertionError("an intent was given, so a run has begun")
    return run


async def _cancelled(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task and return once it has ended: two actors on one machine never overlap."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=5)
