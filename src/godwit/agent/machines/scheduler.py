"""Starts machines that their schedule says are due.

When a machine is due lies in its record, so it outlives the agent, and a run that was missed is
made up for once. The run is an ordinary start: the process is expected to end by itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from godwit.agent.machines import events, lifecycle, records, schedules, work
from godwit.base import clock, errors, tasks

logger = logging.getLogger(__name__)

_ANSWER_S = 600.0
"""A start waits for the operation before it; past this it is asked for again."""


class Startable(Protocol):
    """A machine's driver, as far as a schedule needs it."""

    @property
    def machine(self) -> records.Machine:
        """Return the stored record."""

    def ask(self, request: lifecycle.Request, given: Mapping[str, Any]) -> Awaitable[str]:
        """Ask for something."""


class Scheduler:
    """Starts machines that are due.

    Args:
        machines: Returns the machines of this host.
    """

    def __init__(
        self,
        machines: Callable[[], Iterable[Startable]],
        the_clock: clock.Clock,
        owned: tasks.Tasks,
    ) -> None:
        self._machines = machines
        self._clock = the_clock
        self._tasks = owned
        self._asked: set[str] = set()

    async def tick(self) -> None:
        """Ask for the start of every machine that is due; returns at once."""
        now_ms = self._clock.now_ms()
        for each in self._machines():
            machine = each.machine
            due = machine.due_ms is not None and machine.due_ms <= now_ms
            if due and machine.state != "destroyed" and machine.machine_id not in self._asked:
                self._asked.add(machine.machine_id)
                self._tasks.spawn(self._start(each), name=f"schedule.{machine.machine_id}")

    async def _start(self, each: Startable) -> None:
        machine = each.machine
        try:
            async with asyncio.timeout(_ANSWER_S):
                await each.ask("start", {"source": "flyd", "due_ms": machine.due_ms})
        except (errors.Failure, TimeoutError) as failure:
            logger.info("%s: its scheduled start: %s", machine.machine_id, failure)
        finally:
            self._asked.discard(machine.machine_id)


def begun(host: work.Host, machine: records.Machine) -> records.Machine:
    """Return the record with the next time, for the commit that begins a scheduled start."""
    host.log.write(machine.machine_id, f"Started by its schedule: {machine.config['schedule']}")
    return machine.model_copy(update={"due_ms": _next(host, machine)})


def passed_over(
    host: work.Host, machine: records.Machine, why: errors.Failure | None
) -> tuple[records.Machine, tuple[records.Event, ...]]:
    """Return the record with the next time and what to tell of a start that does not take place.

    Args:
        host: For the time and the machine's log.
        machine: The one that was due.
        why: It cannot be started; `None` when it still runs.
    """
    changed = machine.model_copy(update={"due_ms": _next(host, machine)})
    if why is None:
        host.log.write(machine.machine_id, "Due by its schedule, but it still runs")
        return changed, ()
    sentence = f"its scheduled start failed: {why.message}"
    host.log.write(machine.machine_id, sentence)
    request = {"reason": sentence, "code": why.code}
    event = events.make(host.event_ids, machine, None, "schedule", machine.state, request=request)
    return changed.model_copy(update={"sentence": sentence}), (event,)


def _next(host: work.Host, machine: records.Machine) -> int | None:
    return schedules.next_due(machine.config, machine.created_at_ms, host.clock.now_ms())
