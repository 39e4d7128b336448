"""Waiting until a machine is what it shall be, with a deadline and a reason."""

import asyncio
from collections.abc import Callable

from godwit.base import errors
from godwit.base.clock import Clock
from godwit.client.api import Api
from godwit.client.records import Machine
from godwit.wire import health

_POLL_S = 1.0
_WAIT_S = 10
_NEWBORN_S = 5.0


class NotWell(errors.Failure):
    """A machine did not come up.

    Attributes:
        machine_id: Which one, to show its logs.
    """

    def __init__(self, machine_id: str, message: str) -> None:
        super().__init__("failed_precondition", message)
        self.machine_id = machine_id


class Watch:
    """Watches the machines of one app.

    Args:
        api: How to ask.
        app: Whose machines.
        clock: Time.
        timeout_s: How long one machine may take.
        smoke: Whether machines without checks have to stay up for a while.
    """

    def __init__(self, api: Api, app: str, clock: Clock, *, timeout_s: float, smoke: bool) -> None:
        self._api = api
        self._app = app
        self._clock = clock
        self._timeout_s = timeout_s
        self._smoke = smoke

    async def until_well(self, machine: Machine, told: Callable[[str], None]) -> Machine:
        """Return once a machine runs its present version and is well.

        Args:
            machine: As the API answered when it was created or updated.
            told: Called with what it is doing, whenever that changes.

        Raises:
            NotWell: It will not be, or not in time.
        """
        deadline = self._clock.monotonic() + self._timeout_s
        await self._until_started(machine, deadline, told)
        up_since = self._clock.monotonic()
        started = ""
        while True:
            now = await self._api.machines.get(self._app, machine.id)
            if health.last_start(now, now.version) != started or now.state != "started":
                started = health.last_start(now, now.version)
                up_since = self._clock.monotonic()
            verdict = health.judge(now, up_s=self._clock.monotonic() - up_since, smoke=self._smoke)
            told(verdict.sentence)
            if verdict.word == "well":
                return now
            await self._demand_hope(machine, verdict, deadline)

    async def until_settled(self, machine: Machine) -> None:
        """Return once a machine that is not started rests again."""
        deadline = self._clock.monotonic() + self._timeout_s
        while True:
            try:
                await self._api.machines.wait(
                    self._app, machine.id, ["settled"], version=machine.version
                )
            except errors.Failure as failure:
                if failure.code != "deadline_exceeded":
                    raise
                if self._clock.monotonic() >= deadline:
                    late = await self._too_late(machine, "does not come to rest")
                    raise NotWell(machine.id, late) from failure
            else:
                return

    async def _until_started(
        self, machine: Machine, deadline: float, told: Callable[[str], None]
    ) -> None:
        born = self._clock.monotonic()
        while True:
            try:
                await self._api.machines.wait(
                    self._app, machine.id, ["started"], version=machine.version, timeout_s=_WAIT_S
                )
            except errors.Failure as failure:
                newborn = self._clock.monotonic() - born < _NEWBORN_S
                if failure.code == "not_found" and not newborn:
                    raise NotWell(machine.id, f"machine {machine.id} is gone") from failure
                if failure.code not in ("deadline_exceeded", "conflict", "not_found"):
                    raise
                if failure.code == "not_found":
                    await self._clock.sleep(_POLL_S)
                    continue
            else:
                return
            now = await self._api.machines.get(self._app, machine.id)
            verdict = health.judge(now, up_s=0, smoke=False)
            doing = "" if now.state == "started" else await self._doing(machine.id)
            told(f"{verdict.sentence}{doing}")
            await self._demand_hope(machine, verdict, deadline)

    async def _demand_hope(
        self, machine: Machine, verdict: health.Verdict, deadline: float
    ) -> None:
        """Return, after a moment, if a machine that is not well may still become so."""
        if verdict.word == "not well":
            why = "" if ": " in verdict.sentence else await self._doing(machine.id)
            raise NotWell(machine.id, f"machine {machine.id} {verdict.sentence}{why}")
        if self._clock.monotonic() >= deadline and not verdict.steadying:
            raise NotWell(machine.id, await self._too_late(machine, verdict.sentence))
        await self._clock.sleep(_POLL_S)

    async def _too_late(self, machine: Machine, sentence: str) -> str:
        doing = "" if ": " in sentence else await self._doing(machine.id)
        limit = f"{self._timeout_s:.0f}s"
        return f"machine {machine.id} was not well within {limit}: it {sentence}{doing}"

    async def _doing(self, machine_id: str) -> str:
        """Return what the host says it does with a machine; nothing when it cannot be had."""
        try:
            sentence = await self._api.machines.progress(self._app, machine_id)
        except errors.Failure:
            return ""
        return f" ({sentence})" if sentence else ""


async def last_lines(api: Api, app: str, machine_id: str, count: int) -> list[str]:
    """Return the last lines a machine printed; none when they cannot be had."""
    try:
        async with asyncio.timeout(_WAIT_S):
            page = await api.logs.page(app, instance=machine_id)
    except (errors.Failure, TimeoutError):
        return []
    return [one.message for one in page.lines[-count:]]
