"""Carries deploys: claims what nobody carries, runs its steps, turns it back, ends it.

    free ──claim (fence + 1)──► carried ──every step done──► complete
      ▲                            │ └──a step gives up, or cancel──► way back ──► failed
      └──not heard of for 15 s─────┘

Each write of a run checks its fence; who has lost it stops at once. What is carried on after a
crash, by this replica or another one, is seen from the journal and from the machines themselves.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from godwit.appconfig.model import Config
from godwit.base import errors, ids, log, tasks
from godwit.control.context import Context
from godwit.control.deploys import definitions, operations
from godwit.control.deploys.holding import MachineLeases
from godwit.control.deploys.journal import (
    HELD_MS,
    TURNED,
    CancelWanted,
    Fenced,
    Outcome,
    RunJournal,
    past_return,
)
from godwit.control.deploys.listening import Listening
from godwit.control.deploys.order import Order
from godwit.control.deploys.work import Work
from godwit.control.records import RunRow
from godwit.durable import runner
from godwit.durable.journal import Run

logger = logging.getLogger(__name__)

_EVERY_S = 2.0
RENEW_S = 3.0
"""How often a run that is carried is held anew."""
_PAUSE_S = 1.0
_AT_ONCE = 32


class Worker:
    """Carries the runs of one control process.

    Args:
        ctx: Control.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._name = f"control-{ids.ulid().lower()}"
        self._carried: set[str] = set()

    async def run(self) -> None:
        """Claim and carry for ever; leave what is carried to others when cancelled."""
        async with tasks.Tasks("deploys") as owned:
            while True:
                self._ctx.deploys_wanted.clear()
                try:
                    for row in await self.claim():
                        owned.spawn(self.carry(row), name=row.id)
                except errors.Failure as failure:
                    logger.warning("deploys are looked for later: %s", failure.message)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY_S):
                        await self._ctx.deploys_wanted.wait()

    async def claim(self) -> list[RunRow]:
        """Take over what nobody carries now, and return it as it is held."""
        room = _AT_ONCE - len(self._carried)
        now_ms = self._ctx.clock.now_ms()
        async with self._ctx.store.read() as rows:
            free = await rows.runs.free(now_ms, room) if room > 0 else []
        claimed = []
        for row in free:
            async with self._ctx.store.write() as rows:
                if await rows.runs.claim(row, self._name, now_ms, now_ms + HELD_MS):
                    mine = await rows.runs.get(row.id)
                    claimed += [mine] if mine is not None else []
        self._carried |= {row.id for row in claimed}
        return claimed

    async def carry(self, row: RunRow) -> None:
        """Carry a claimed run to its end, or until somebody else has it."""
        log.bind(org_id=row.org_id)
        try:
            await Carrying(self._ctx, row).run()
        finally:
            self._carried.discard(row.id)


class Carrying:
    """One run in the hands of one control."""

    def __init__(self, ctx: Context, row: RunRow) -> None:
        self._hosts = Listening(ctx.hosts, ctx.clock)
        self._ctx = replace(ctx, hosts=self._hosts)
        self._row = row
        self._order = Order.model_validate(row.input)
        self._journal = RunJournal(ctx, row, self._order)
        self._leases = MachineLeases(self._ctx, self._order, row.id)
        self._cancel = asyncio.Event()
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Go on until the run has ended or is lost."""
        async with tasks.Tasks(f"deploy {self._row.id}") as owned:
            going = owned.spawn(self._go_on(), name="steps")
            lost = owned.spawn(self._lost.wait(), name="lost")
            owned.spawn(self._renew(), name="renew")
            owned.spawn(self._leases.keep(), name="leases")
            try:
                await asyncio.wait({going, lost}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                # This control ends: the next one need not wait until the hold is over.
                await owned.cancel()
                with contextlib.suppress(errors.Failure):
                    await self._journal.let_go()
                raise
            if not going.done():
                logger.warning("deploy %s is carried by somebody else now", self._row.id)

    async def _renew(self) -> None:
        """Hold the run, and hear whether it is to be cancelled."""
        held_at = self._ctx.clock.monotonic()
        while True:
            try:
                if await self._journal.hold():
                    self._cancel.set()
                held_at = self._ctx.clock.monotonic()
            except Fenced:
                self._lost.set()
                return
            except errors.Failure as failure:
                logger.warning("deploy %s is held with no database: %s", self._row.id, failure)
                if (self._ctx.clock.monotonic() - held_at) * 1000 >= HELD_MS:
                    self._lost.set()
                    return
            await self._ctx.clock.sleep(RENEW_S)

    async def _go_on(self) -> None:
        while True:
            try:
                await self._to_the_end()
            except Fenced:
                return
            except errors.Failure as failure:
                logger.warning("deploy %s goes on later: %s", self._row.id, failure.message)
                await self._ctx.clock.sleep(_PAUSE_S)
            else:
                return

    async def _to_the_end(self) -> None:
        run = await self._journal.load()
        config, wrong = await self._config()
        if "take_leases" in run.done:
            await self._leases.take_again(self._order.plan.touched)
        if TURNED not in run.done:
            try:
                if not wrong:
                    run, wrong = await self._forward(run, config)
                error, outcome = wrong, _ended(wrong)
            except CancelWanted:
                run = await self._journal.load()
                error, outcome = "cancelled", "cancelled"
            if outcome == "complete":
                await self._end("complete", "")
                return
            back = operations.way_back(self._order, outcome)
            if past_return(run.steps, run.done):
                back = []
            run = await self._journal.turn(run, back, outcome, error)
        await self._back(run, config)

    async def _forward(self, run: Run, config: Config) -> tuple[Run, str]:
        """Run what is not done yet; return what went wrong, empty for nothing.

        Raises:
            CancelWanted: It is to be cancelled, and may be.
        """
        async with tasks.Tasks(f"deploy {run.id}") as owned:
            going = owned.spawn(self._tried(run, config), name="forward")
            cancel = owned.spawn(self._cancel.wait(), name="cancel")
            await asyncio.wait({going, cancel}, return_when=asyncio.FIRST_COMPLETED)
            if not going.done():
                raise CancelWanted
        result = going.result()
        if isinstance(result, Exception):
            raise result
        run, ending = result
        return run, _wrong(ending)

    async def _tried(
        self, run: Run, config: Config
    ) -> tuple[Run, runner.Ending] | CancelWanted | Fenced | errors.Failure:
        """Run the steps; what interrupts them is no task's failure, so it is returned."""
        try:
            return await self._steps(run, config)
        except (CancelWanted, Fenced, errors.Failure) as interruption:
            return interruption

    async def _steps(self, run: Run, config: Config) -> tuple[Run, runner.Ending]:
        work = Work(
            ctx=self._ctx,
            run_id=run.id,
            order=self._order,
            config=config,
            journal=self._journal,
            leases=self._leases,
            listening=self._hosts,
            steps=tuple(self._row.steps),
            marks=set(run.done),
        )
        carried = runner.Runner(self._journal, self._ctx.clock, operations.STEPS)
        return await carried.run(run, work, _quietly)

    async def _back(self, run: Run, config: Config) -> None:
        why = run.done[TURNED]
        outcome: Outcome = "cancelled" if why["outcome"] == "cancelled" else "failed"
        await self._journal.event("error", str(why["error"]))
        # What was not done forwards is not done now.
        names = list(run.steps)
        begun = len(names) - len(operations.way_back(self._order, outcome))
        rest = [] if past_return(names, run.done) else names[begun:]
        back, ending = await self._steps(
            Run(
                id=run.id,
                subject=run.subject,
                org_id=run.org_id,
                kind=run.kind,
                steps=tuple(rest),
                input=run.input,
                begun_at_ms=run.begun_at_ms,
                done=run.done,
            ),
            config,
        )
        message = _told(str(why["error"]), back.done, rest, _wrong(ending))
        await self._end(outcome, message)

    async def _end(self, outcome: Outcome, message: str) -> None:
        version = self._order.version
        sentence = {
            "complete": f"Release v{version} is deployed",
            "failed": f"Release v{version} failed: {message}",
            "cancelled": f"Release v{version} was {message}",
        }[outcome]
        await self._journal.event("step" if outcome == "complete" else "error", sentence)
        await self._leases.give_all_back()
        await self._journal.end(outcome, message)

    async def _config(self) -> tuple[Config, str]:
        """Return the release's config, and what is wrong with it in this build's eyes."""
        async with self._ctx.store.read() as rows:
            release = await rows.releases.find(self._order.app_id, self._order.release_id)
        if release is None:
            return Config(), "the deploy's release is gone"
        try:
            return definitions.understand(release.config), ""
        except errors.Failure as failure:
            return Config(), failure.message


def _ended(wrong: str) -> Outcome:
    return "failed" if wrong else "complete"


def _quietly(run: Run, sentence: str) -> None:
    del run, sentence


def _wrong(ending: runner.Ending) -> str:
    match ending:
        case runner.Done():
            return ""
        case runner.HandedOff():
            return f"a step asked for {ending.kind}"
        case _:
            return ending.message


def _told(error: str, done: Mapping[str, Any], back: list[str], wrong: str) -> str:
    """Return why a deploy failed, and where that leaves the machines."""
    if wrong:
        return f"{error}; rolling back failed: {wrong}"
    troubles = [text for name in back for text in done.get(name, {}).get("troubles", ())]
    changed = sum(done.get(name, {}).get("changed", 0) for name in back)
    if troubles:
        return f"{error}; rolled back, but {'; '.join(troubles)}"
    if "destroy_made" not in back:
        return f"{error}; not rolled back"
    return f"{error}; rolled back" if changed else f"{error}; nothing was changed"
