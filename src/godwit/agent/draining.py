"""Machines out of the way of new requests for a moment, so that what they have can end.

A drain is no state of a machine: nothing of it is stored. It ends with the boot it was begun for
(any stop, update or restart), with a word, by itself a while after its time, and with this agent.
`docs/decisions/0018-drain-before-stop.md` says why.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from godwit.base import clock, tasks

logger = logging.getLogger(__name__)

LONGEST_S = 300.0
_HELD_AFTER_S = 60.0
"""A drain that nothing followed ends this long after its time."""
_FIRST_PAUSE_S = 0.02
_GREATEST_PAUSE_S = 0.25
_UNTOLD_S = 1.0
"""What edges of a former release have is not known; so long it is given to end."""
_ACT_S = 0.25
"""An edge that has not acted upon a fact by then is waited for no longer."""


@dataclass(frozen=True)
class InFlight:
    """What a machine has in flight at this host's edges.

    Attributes:
        tunnels: Connections that became something else (WebSocket); not among the requests.
        edges: How many edges told.
        silent: How many did not answer in time.
    """

    requests: int = 0
    tunnels: int = 0
    edges: int = 0
    silent: int = 0


class Edges(Protocol):
    """This host's edges (`agent.catalog_socket.CatalogSocket`)."""

    async def in_flight(self, machine_id: str) -> InFlight:
        """Return what a machine has at edges that acted upon every fact before; bounded."""


@dataclass(eq=False)
class _Drain:
    """One machine's drain, of the boot it was begun for."""

    boot: str
    timer: asyncio.Task[None] | None = None


class Drains:
    """The drains of this host.

    Args:
        changed: Told the id of a machine whose drain begins or ends.
    """

    def __init__(
        self,
        the_clock: clock.Clock,
        owned: tasks.Tasks,
        edges: Edges,
        changed: Callable[[str], None],
    ) -> None:
        self._clock = the_clock
        self._tasks = owned
        self._edges = edges
        self._changed = changed
        self._boots: dict[str, str] = {}
        self._drains: dict[str, _Drain] = {}

    def follow(self, machine_id: str, boot: str | None) -> bool:
        """Take in which boot a machine is in, if any; return whether that one is drained."""
        if boot is None:
            self._boots.pop(machine_id, None)
        else:
            self._boots[machine_id] = boot
        drain = self._drains.get(machine_id)
        if drain is not None and drain.boot != boot:
            self._take_off(machine_id)
            return False
        return drain is not None

    async def drain(self, machine_id: str, timeout_s: float) -> InFlight:
        """Keep new requests from a machine; return once it has none, or what is left in the end.

        Tunnels are told and not waited for. A machine that is not started has nothing.
        """
        drain = self._begin(machine_id, timeout_s)
        if drain is None:
            return InFlight()
        begun = self._clock.monotonic()
        pause_s, empty = _FIRST_PAUSE_S, 0
        while True:
            found = await self._edges.in_flight(machine_id)
            waited_s = self._clock.monotonic() - begun
            # Twice: a request that had chosen the machine may not have been counted at first.
            empty = empty + 1 if not (found.requests or found.silent) else 0
            known = found.edges > 0 or waited_s >= _UNTOLD_S
            over = self._drains.get(machine_id) is not drain
            if over or (empty > 1 and known) or waited_s >= timeout_s:
                return found
            await self._clock.sleep(min(pause_s, max(0.0, timeout_s - waited_s)))
            pause_s = min(pause_s * 2, _GREATEST_PAUSE_S)

    def undrain(self, machine_id: str) -> None:
        """Let requests in again; nothing happens where none were kept away."""
        if machine_id in self._drains:
            self._take_off(machine_id)
            self._changed(machine_id)

    async def acted_upon(self, machine_id: str) -> None:
        """Return once this host's edges have acted upon what they were told, or soon anyway."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ACT_S):
                await self._edges.in_flight(machine_id)

    def _begin(self, machine_id: str, timeout_s: float) -> _Drain | None:
        boot = self._boots.get(machine_id)
        if boot is None:
            return None
        drain = self._drains.get(machine_id)
        if drain is None:
            drain = self._drains[machine_id] = _Drain(boot)
            logger.info("%s takes no new requests, for a drain", machine_id)
            self._changed(machine_id)
        if drain.timer is not None:
            drain.timer.cancel()
        lasting = self._end_later(machine_id, drain, timeout_s + _HELD_AFTER_S)
        drain.timer = self._tasks.spawn(lasting, name=f"drain.{machine_id}")
        return drain

    async def _end_later(self, machine_id: str, drain: _Drain, after_s: float) -> None:
        await self._clock.sleep(after_s)
        if self._drains.get(machine_id) is drain:
            logger.warning("%s: nothing followed its drain; it takes requests again", machine_id)
            del self._drains[machine_id]
            self._changed(machine_id)

    def _take_off(self, machine_id: str) -> None:
        drain = self._drains.pop(machine_id)
        if drain.timer is not None:
            drain.timer.cancel()
