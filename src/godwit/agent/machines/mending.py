"""Finds what came apart beside the machines' own doings, and mends it: part of the upkeep.

The packet policy was flushed: it is made again. A tap has vanished: its machine is restarted, for
a new tap does not reach a VM that holds the old one open. A VMM was stopped by a signal: it goes
on, if it stood still at the look before as well, so that nobody's short pause is cut shorter.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from godwit.agent.machines import lifecycle, records, work
from godwit.base import errors
from godwit.durable.journal import Run

logger = logging.getLogger(__name__)

_ANSWER_S = 10.0


class Mendable(Protocol):
    """A machine's driver, as far as mending needs it."""

    @property
    def machine(self) -> records.Machine:
        """Return the stored record."""

    @property
    def run(self) -> Run | None:
        """Return the running operation."""

    def ask(
        self,
        request: lifecycle.Request,
        given: Mapping[str, Any],
        *,
        permit: Callable[[], None] = ...,
    ) -> Awaitable[str]:
        """Ask for something."""


class Mender:
    """Looks after what machines stand on.

    Args:
        machines: Returns the machines of this host.
    """

    def __init__(self, host: work.Host, machines: Callable[[], Iterable[Mendable]]) -> None:
        self._host = host
        self._machines = machines
        self._stood_still: frozenset[str] = frozenset()

    async def round(self) -> None:
        """Look once, and mend what is found."""
        await self._mend_policy()
        await self._mend_taps()
        await self._mend_standstill()

    async def _mend_policy(self) -> None:
        if not await self._host.network.intact():
            logger.warning("the host's packet policy was gone and is made again")
            await self._host.network.start()

    async def _mend_taps(self) -> None:
        started = {each: each.machine.started_at_ms for each in self._machines() if _rests(each)}
        taps = await self._host.network.observed()
        for each, started_at_ms in started.items():
            same = _rests(each) and each.machine.started_at_ms == started_at_ms
            if same and each.machine.slot not in taps:
                machine_id = each.machine.machine_id
                logger.warning("%s: its tap has vanished", machine_id)
                self._host.log.write(
                    machine_id, "Its network device has vanished; it is restarted"
                )
                await _restart(each)

    async def _mend_standstill(self) -> None:
        vmm = self._host.vmm
        halted = await vmm.halted()
        for machine_id in halted & self._stood_still:
            logger.warning("%s: its VMM was stopped by a signal", machine_id)
            self._host.log.write(
                machine_id, "The VM was stopped by a signal on its host; it goes on"
            )
            await vmm.carry_on(machine_id)
        self._stood_still = halted


async def _restart(each: Mendable) -> None:
    """Ask for a restart, of the machine as it is: not after somebody's stop, nor behind it."""
    machine_id, started_at_ms = each.machine.machine_id, each.machine.started_at_ms

    def permit() -> None:
        if not _rests(each) or each.machine.started_at_ms != started_at_ms:
            raise errors.Failure("conflict", "something else has come in between")

    try:
        async with asyncio.timeout(_ANSWER_S):
            await each.ask("restart", {"source": "flyd"}, permit=permit)
    except (errors.Failure, TimeoutError) as failure:
        logger.warning("%s: not restarted: %s", machine_id, failure)


def _rests(each: Mendable) -> bool:
    return each.run is None and each.machine.state == "started"
