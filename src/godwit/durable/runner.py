"""Runs the steps of an operation that are not done yet, and decides what an error means.

    Abort                    the operation ends; somebody's fault
    HandOff                  it ends and another begins
    Retry                    the step wants a pause
    Failure                  ends it, unless its code says "later"
    OSError, ProgramFailed   retried, with pauses that grow to a limit
    anything else            a bug: never retried, the subject is parked

A step keeps five promises: it may run again; it names what it makes by the subject's id; its
output is small and JSON; it learns time, randomness and the host only through its context; it
has a deadline.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from godwit.base import clock, errors, processes
from godwit.durable.journal import Run

logger = logging.getLogger(__name__)

C = TypeVar("C")
Output = Mapping[str, Any]
Fault = Literal["user", "system"]

_LATER: frozenset[errors.Code] = frozenset({"unavailable", "deadline_exceeded", "rate_limited"})
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


class Written(Protocol):
    """What the runner needs of a journal: the agent's is SQLite, control's its own database."""

    async def done(self, run: Run, step: str, output: Output) -> Run:
        """Write down that a step is done and return the run with it."""

    async def trouble(self, run: Run, step: str, text: str) -> None:
        """Write down what went wrong with a step; the same text once per run and step."""


class Abort(Exception):
    """The operation cannot succeed; `message` is a sentence for people."""

    def __init__(self, message: str, fault: Fault = "user") -> None:
        super().__init__(message)
        self.message = message
        self.fault: Fault = fault


class Retry(Exception):
    """The step wants to run again after a pause."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class HandOff(Exception):
    """This operation ends here and another begins in its place."""

    def __init__(self, kind: str, input: Mapping[str, Any]) -> None:  # noqa: A002
        super().__init__(kind)
        self.kind = kind
        self.input = input


@dataclass(frozen=True)
class Step(Generic[C]):
    """One idempotent step.

    Attributes:
        name: What the journal records; renaming it is a migration.
        title: What it is doing, for people: `pulling the image`.
        do: Gets the context and the outputs of the steps before.
        deadline_s: One attempt is broken off after this long.
        patience_s: From the first attempt: past it the operation aborts. `None` never gives up:
            the way down must end.
        stuck_s: From the first attempt: past it people are told "stuck at <name>", also while
            an attempt goes on. `None` takes the deadline.
    """

    name: str
    title: str
    do: Callable[[C, Mapping[str, Output]], Awaitable[Output | None]]
    deadline_s: float
    patience_s: float | None
    stuck_s: float | None = None

    @property
    def stuck_after_s(self) -> float:
        """Return when it counts as stuck."""
        return self.deadline_s if self.stuck_s is None else self.stuck_s


@dataclass(frozen=True)
class Done:
    """Every step is done."""


@dataclass(frozen=True)
class Aborted:
    """A step ended the operation."""

    step: str
    message: str
    fault: Fault


@dataclass(frozen=True)
class HandedOff:
    """A step asked for another operation."""

    kind: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class Parked:
    """A bug, or a step that this build does not have: nothing more is tried."""

    step: str
    message: str


Ending = Done | Aborted | HandedOff | Parked
Progress = Callable[[Run, str], None]
"""Told (run so far, sentence) when a step begins or meets trouble."""


class Runner(Generic[C]):
    """Runs operations made of one catalogue of steps.

    Args:
        steps: Every step this build knows, those of older lists included.
    """

    def __init__(self, journal: Written, clock: clock.Clock, steps: Mapping[str, Step[C]]) -> None:
        self._journal = journal
        self._clock = clock
        self._steps = steps

    @property
    def known(self) -> frozenset[str]:
        """Return the names of the steps this build has."""
        return frozenset(self._steps)

    async def run(self, run: Run, context: C, progress: Progress) -> tuple[Run, Ending]:
        """Run what is not done yet and return how it ended.

        Cancelling leaves the journal as it is: what was done stays recorded.
        """
        for name in run.steps:
            if name in run.done:
                continue
            step = self._steps.get(name)
            if step is None:
                message = f"this version of Godwit has no step {name!r} of {run.kind!r}"
                return run, Parked(name, message)
            output = await self._finish(run, step, context, progress)
            if not isinstance(output, Mapping):
                return run, output
            run = await self._journal.done(run, name, output)
        return run, Done()

    async def _finish(
        self, run: Run, step: Step[C], context: C, progress: Progress
    ) -> Output | Aborted | HandedOff | Parked:
        """Try a step until it is done or its operation ends; say so once it is stuck."""
        stuck = asyncio.get_running_loop().call_later(
            step.stuck_after_s, progress, run, f"stuck at {step.name}: {step.title}"
        )
        try:
            return await self._try(run, step, context, progress)
        finally:
            stuck.cancel()

    async def _try(
        self, run: Run, step: Step[C], context: C, progress: Progress
    ) -> Output | Aborted | HandedOff | Parked:
        begun = self._clock.monotonic()
        pause = _FIRST_PAUSE_S
        progress(run, step.title)
        while True:
            try:
                async with asyncio.timeout(step.deadline_s):
                    return await step.do(context, run.done) or {}
            except Abort as abort:
                await self._journal.trouble(run, step.name, abort.message)
                return Aborted(step.name, abort.message, abort.fault)
            except HandOff as hand_off:
                return HandedOff(hand_off.kind, hand_off.input)
            except (Retry, errors.Failure, OSError, processes.ProgramFailed) as error:
                text = _sentence(error, step)
                await self._journal.trouble(run, step.name, text)
                if isinstance(error, errors.Failure) and error.code not in _LATER:
                    return Aborted(step.name, text, "user")
                passed = self._clock.monotonic() - begun
                if step.patience_s is not None and passed >= step.patience_s:
                    return Aborted(step.name, f"{step.title}: {text}", "system")
                late = passed >= step.stuck_after_s
                progress(run, f"{f'stuck at {step.name}' if late else step.title}: {text}")
                logger.info("%s: %s of %s: %s", run.subject, step.name, run.kind, text)
                wait = error.after_s if isinstance(error, Retry) else pause
            except Exception as error:
                # Rule 6: a bug is never retried. It parks this subject; the others go on.
                logger.exception("%s: step %s of %s", run.subject, step.name, run.kind)
                await self._journal.trouble(run, step.name, traceback.format_exc())
                return Parked(step.name, f"internal error in {step.name}: {error!r}")
            await self._clock.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def _sentence(error: Exception, step: Step[C]) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"not done within {step.deadline_s:g} s"
    return str(error) or type(error).__name__
