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
from typing import Any

from godwit.agent.machines import (
    admission,
    events,
    exits,
    face,
    lifecycle,
    mailbox,
    operations,
    policy,
    records,
    scheduler,
    store,
    views,
    waits,
    watching,
    work,
)
from godwit.base import errors, log
from godwit.durable import journal, runner
from godwit.durable.database import Transaction

logger = logging.getLogger(__name__)

_MAX_ASKED = 32
_AFTER_BUG_S = 1.0
_NO_DISK_S = 2.0


class Driver:
    """Drives one machine."""

    def __init__(
        self,
        shared: mailbox.Shared,
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
        self._unwritten = False
        self._ended: deque[mailbox.Ended] = deque()
        self._asked: deque[mailbox.Asked] = deque()
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

    async def ask(
        self,
        request: lifecycle.Request,
        given: Mapping[str, Any],
        *,
        permit: Callable[[], None] = lambda: None,
    ) -> str:
        """Ask for something; return the public state before, once the wish is on disk.

        Args:
            request: What for.
            given: What the operation will know.
            permit: Called when the request's turn comes; raises when it is forbidden then.

        Raises:
            Failure: The machine cannot do that now.
        """
        if len(self._asked) >= _MAX_ASKED:
            raise errors.Failure("rate_limited", "too many requests wait for this machine")
        asked = mailbox.Asked(request, given, permit)
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
        machine, host = self._machine, self._shared.host
        told = events.cordoning(host.event_ids, machine, self.snapshot.shown, cordoned=cordoned)
        await host.database.write(
            lambda tx: store.set_cordoned(tx, machine, told, cordoned=cordoned)
        )
        self._machine = self._machine.model_copy(update={"cordoned": cordoned})
        self._face.add(told)
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
        log.bind(**self._machine.about)
        while True:
            try:
                self._get_going()
                if self._over:
                    self._refuse_the_rest()
                    return
                await self._wake.wait()
                self._wake.clear()
                await self._turn()
                self._take_back_trouble()
            except sqlite3.Error as error:
                # Disk full or the like: nothing was committed, so the same is tried again.
                logger.warning(
                    "%s: the journal cannot be written: %s", self._machine.machine_id, error
                )
                self._unwritten = True
                self._say(f"the agent's database cannot be written: {error}")
                await self._shared.host.clock.sleep(_NO_DISK_S)
                self._wake.set()
            except Exception:
                # The guard of a machine's task: a bug in one turn must not orphan the machine.
                logger.exception("%s: a turn failed", self._machine.machine_id)
                await self._shared.host.clock.sleep(_AFTER_BUG_S)
                self._wake.set()

    def _take_back_trouble(self) -> None:
        """Say again why the machine rests, once nothing waits for the database any more."""
        if self._unwritten:
            self._unwritten = False
            if self._run is None:
                self._say(self._machine.sentence)

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
                await self._pass_over(asked, failure)
                if not asked.answer.done():
                    asked.answer.set_exception(failure)
                judged = True
            if judged:
                self._asked.remove(asked)

    async def _judge(self, asked: mailbox.Asked) -> bool:
        """Judge one request; return whether it has its answer."""
        if self._run is not None and "due_ms" in asked.input:
            # What becomes of it is written into the record, which the operation's steps write now.
            return False
        asked.permit()
        before = self.snapshot.shown
        verdict = lifecycle.decide(self._machine.state, self.operation, asked.request)
        verdict = admission.judge(verdict, self._machine, asked.input)
        if isinstance(verdict, lifecycle.Refuse):
            raise errors.Failure(verdict.code, verdict.sentence)
        if isinstance(verdict, lifecycle.Run):
            if self._run is not None and not verdict.at_once:
                return False
            admission.check_version(self.snapshot.version, asked.input)
            sized = self._shared.host.sized(self._machine)
            needs = admission.needs(verdict.kind, sized, asked.input)
            if needs is not None:
                self._shared.hold(self._machine.machine_id, needs)
            try:
                await self._begin(verdict.kind, {**asked.input, "requested": True})
            except sqlite3.Error:
                # Nothing was begun, and the asker may be gone before it can be.
                self._shared.changed(self._machine.machine_id)
                raise
        elif "due_ms" in asked.input:
            await self._pass_over(asked, None)
        if not asked.answer.done():
            asked.answer.set_result(before)
        return True

    async def _pass_over(self, asked: mailbox.Asked, why: errors.Failure | None) -> None:
        """Wait for the next time of the schedule: it runs already, or cannot be started now."""
        gone = why is not None and why.code == "not_found"
        if "due_ms" not in asked.input or self._machine.state == "created" or gone:
            return
        machine, new = scheduler.passed_over(self._shared.host, self._machine, why)

        def work(tx: Transaction) -> None:
            store.put_machine(tx, machine)
            for event in new:
                store.add_event(tx, machine.org_id, event)

        await self._shared.host.database.write(work)
        self._take_in_change(machine, new)
        if self._run is None:
            self._say(machine.sentence)

    def _refuse_the_rest(self) -> None:
        for asked in self._asked:
            if not asked.answer.done():
                verdict = lifecycle.decide("destroyed", None, asked.request)
                if isinstance(verdict, lifecycle.Refuse):
                    asked.answer.set_exception(errors.Failure(verdict.code, verdict.sentence))
                else:
                    asked.answer.set_result("destroyed")
        self._asked.clear()

    # -- operations ---------------------------------------------------------------------

    async def _begin(self, kind: lifecycle.Kind, given: Mapping[str, Any]) -> None:
        """Begin an operation, breaking off what is in its way."""
        await self._stop_working()
        await self._stop_watching()
        lost = {} if self._lost_at_ms is None else {"ended_at_ms": self._lost_at_ms}
        given = {**given, **lost, "from_rest": self._run is None}
        intent = self._intent(kind, given)
        machine = self._machine
        if kind in ("start", "resume", "restart", "update", "replace"):
            machine = machine.model_copy(update={"restarts": records.Restarts(), "sentence": ""})
        if kind == "relaunch":
            after = records.Restarts.model_validate(given["restarts"])
            machine = machine.model_copy(update={"restarts": after})
        if "due_ms" in given:
            machine = scheduler.begun(self._shared.host, machine)
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
        self._lost_at_ms = None
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
        sentence = exits.with_last_word(
            str(run.input.get("sentence") or ""),
            str(run.done.get("record_exit", {}).get("last_word") or ""),
        )
        if kind == "clear":
            sentence = sentence or self._machine.sentence
        await self._rest(run, "done", target, sentence)

    async def _give_up(self, run: journal.Run, ending: runner.Aborted) -> None:
        """The operation cannot succeed: take down what it left, or leave what it did not touch."""
        logger.info("%s: %s given up: %s", run.subject, run.kind, ending.message)
        self._shared.host.log.write(run.subject, f"{run.kind} failed: {ending.message}")
        if self._untouched(run):
            sentence = f"{run.kind} failed: {ending.message}"
            await self._rest(run, "aborted", self._machine.state, sentence, ending.message)
            return
        await self._take_down(run, "aborted", ending.message)

    def _untouched(self, run: journal.Run) -> bool:
        """Tell whether an operation ended before it touched anything of a machine at rest."""
        harmless = operations.OPERATIONS[views.kind_of(run.kind)].harmless
        from_rest = run.input.get("from_rest") is True and self._machine.state != "created"
        return from_rest and len(run.done) < harmless

    async def _park(self, run: journal.Run, ending: runner.Aborted | runner.Parked) -> None:
        """A bug, or a step this build lacks."""
        logger.error("%s: %s parked: %s", run.subject, run.kind, ending.message)
        self._shared.host.log.write(run.subject, f"{run.kind} failed: {ending.message}")
        if self._untouched(run):
            sentence = f"{run.kind} failed: {ending.message}"
            await self._rest(run, "parked", self._machine.state, sentence, ending.message)
            return
        course = lifecycle.COURSES[views.kind_of(run.kind)]
        unknown = ending.step not in self._shared.runner.known
        if course.tearing_down or unknown:
            saved = course.target is None and self._machine.state == "suspended"
            state: lifecycle.State = "suspended" if saved else "failed"
            await self._rest(run, "parked", state, ending.message, ending.message)
        else:
            await self._take_down(run, "parked", ending.message)

    async def _take_down(self, run: journal.Run, outcome: journal.Outcome, message: str) -> None:
        """Take down what an operation left; a resume that failed leaves it suspended."""
        if run.kind == "resume":
            given = {"sentence": f"resume failed: {message}", "source": "flyd"}
            await self._follow(run, outcome, message, "clear", given)
            return
        given = {"sentence": message, "source": "flyd"}
        await self._follow(run, outcome, message, "fail", given)

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
            changes |= records.launched(run.done["fetch_image"])
        if outcome == "done" and "await_resumed" in run.done:
            changes["started_at_ms"] = int(run.done["await_resumed"]["resumed_at_ms"])
        machine = self._machine.model_copy(update=changes)
        closing = events.closing(host.event_ids, machine, run, outcome)

        def also(tx: Transaction) -> None:
            store.put_machine(tx, machine)
            for event in closing:
                store.add_event(tx, machine.org_id, event)
            if "started_at_ms" in changes:
                store.open_usage(tx, host.sized(machine), host.host_id, changes["started_at_ms"])
            elif state == "suspended" and "save_state" in run.done:
                saved_at_ms = int(run.done["save_state"]["saved_at_ms"])
                store.close_usage(tx, machine.machine_id, saved_at_ms)

        await self._shared.journal.end(run, outcome, message, also=also)
        self._enter(machine, None, closing)

    # -- guest events -------------------------------------------------------------------

    async def _watch(self) -> None:
        """Watch a started VM until it has ended; then say so."""
        try:
            ended = await watching.until_ended(self._shared.host, self._machine)
        except Exception:
            # A guard like that of `live`: a bug here is said, and looked past a moment later.
            logger.exception("%s: the watch failed", self._machine.machine_id)
            await self._shared.host.clock.sleep(_AFTER_BUG_S)
            return
        self._ended.append(ended)
        self._wake.set()

    async def _take_in_exit(self, ended: mailbox.Ended) -> None:
        """What ran has ended by itself: by the restart policy, again or not."""
        machine, host = self._machine, self._shared.host
        if machine.state != "started":
            return
        now_ms = host.clock.now_ms()
        told = exits.lost(machine.instance_id, now_ms, now_ms)
        if ended.record is not None:
            told = exits.of_record(ended.record, ran_out=ended.ran_out)
        logger.info("%s: %s", machine.machine_id, told.sentence)
        then = policy.after_exit(machine, told.code, now_ms, brief=told.brief)
        given: dict[str, Any] = {}
        if isinstance(then, policy.Relaunch):
            given |= {"restarts": then.restarts.model_dump()}
            until_ms = now_ms + then.wait_ms
            pause = {"until_ms": until_ms, "wait_ms": then.wait_ms}
            await self._begin("relaunch", given | pause)
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
        given: dict[str, Any] = {"source": "flyd"}
        if self._run is not None:
            given = dict(self._run.input)
        if kind == "restart" and self._run is None:
            self._shared.host.log.write(
                self._machine.machine_id, "Its network device has vanished; it is restarted"
            )
            given["requested"] = True
        await self._begin(kind, given)

    async def park_unknown(self, step: str, *, runs: bool) -> None:
        """Give up an operation that this build cannot finish; before `live`.

        Args:
            step: The one it lacks.
            runs: The machine was started and its VM is there: it is left alone.
        """
        if self._run is not None:
            message = f"this version of Godwit has no step {step!r} of {self._run.kind!r}"
            state: lifecycle.State = "started" if runs else "failed"
            await self._rest(self._run, "parked", state, message, message)

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
        self._shared.changed(self._machine.machine_id)

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
