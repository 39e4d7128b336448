"""Machines that live where the books have none: the host that has one is told to destroy it.

A machine lives on one host for life, and is not born again. Yet a host may claim one that is
another's, or one that was destroyed: its disk was restored from a copy, or was copied to a second
server. The watcher notes the claim here and believes none of it; what cannot be done now is tried
again until the host has heard.
"""

import asyncio
import logging

from godwit.base import errors, log, principal
from godwit.control.context import Context
from godwit.control.records import Placement
from godwit.wire import facts

logger = logging.getLogger(__name__)

_AGAIN_S = 10.0
_AT_ONCE = 16
_MOST = 10_000
"""Claims kept; a host tells its machines again, so what is left out is noted then."""
_ME = principal.component("control")


def is_one(fact: facts.MachineFact, row: Placement) -> bool:
    """Tell whether a host claims a machine that the books place elsewhere, or have destroyed."""
    if row.status != "accepted" or fact.deleted or fact.state == "destroyed":
        return False
    if row.host_id != fact.host_id:
        return row.host_id is not None
    newer = (fact.epoch, fact.revision) > (row.epoch, row.revision)
    return row.destroyed_at_ms is not None and newer and fact.state != "destroying"


class Strays:
    """Has hosts destroy what they should not have."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._noted: dict[tuple[str, str], facts.MachineFact] = {}
        self._wanted = asyncio.Event()

    def note(self, fact: facts.MachineFact) -> None:
        """Have the host that says this destroy its machine, soon."""
        key = (fact.host_id, fact.machine_id)
        if key not in self._noted and len(self._noted) < _MOST:
            self._noted[key] = fact
            self._wanted.set()

    async def run(self) -> None:
        """Tell hosts, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.sweep()
            if self._noted:
                await self._ctx.clock.sleep(_AGAIN_S)
                self._wanted.set()

    async def sweep(self) -> None:
        """Tell every host once of what it is to destroy."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def tell(key: tuple[str, str], fact: facts.MachineFact) -> None:
            async with room:
                if await self._destroyed(fact):
                    self._noted.pop(key, None)

        await asyncio.gather(*(tell(key, fact) for key, fact in list(self._noted.items())))

    async def _destroyed(self, fact: facts.MachineFact) -> bool:
        """Tell one host; return whether it has heard, or it is no stray any more."""
        with log.bound(org_id=fact.org_id, network_id=fact.network_id, machine_id=fact.machine_id):
            try:
                async with self._ctx.store.read() as rows:
                    row = await rows.placements.get(fact.machine_id)
                if row is None or not is_one(fact, row):
                    return True
                logger.warning(
                    "host %s has machine %s, which is not its own: it is to destroy it",
                    fact.host_id,
                    fact.machine_id,
                )
                body = {"machine_id": fact.machine_id, "force": True}
                within_s = self._ctx.options.act_s
                await self._ctx.hosts.call(fact.host_id, "machine.destroy", body, _ME, within_s)
            except errors.Failure as failure:
                if failure.code == "not_found":
                    return True
                logger.warning("a stray machine is destroyed later: %s", failure.message)
                return False
        return True
