"""The machine leases of one run: taken, prolonged, given back.

They last seconds, so a run nobody carries keeps nobody from its machines for long. Their
description names the run: who carries it on takes them over.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable

from godwit.base import errors
from godwit.control import leases
from godwit.control.context import Context
from godwit.control.deploys.order import Order
from godwit.durable import runner
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

TTL_S = 13
_REFRESH_S = 4.0
_AT_ONCE = 20
_TRIES = 5
_PAUSE_S = 0.5


class MachineLeases:
    """Who may change the run's machines: this run alone."""

    def __init__(self, ctx: Context, order: Order, run_id: str) -> None:
        self._ctx = ctx
        self._order = order
        self._description = f"deploy {run_id} of release v{order.version}"
        self._nonces: dict[str, str] = {}
        # A lease that is being prolonged is given back after that, or the host grants it anew.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def nonce(self, machine_id: str) -> str | None:
        """Return the proof of holding a machine's lease."""
        return self._nonces.get(machine_id)

    async def take(self, machine_id: str) -> None:
        """Ensure that the run has a machine's lease; one that is gone has none.

        Raises:
            Abort: Somebody else has it.
            Failure: `unavailable`.
        """
        if machine_id in self._nonces:
            return
        wanted = leases.NewLease(ttl_s=TTL_S, description=self._description)
        who, app = self._order.who, self._order.app
        try:
            lease = await leases.acquire(self._ctx, who, app, machine_id, wanted)
        except leases.Held as held:
            lease = await self._taken_over(machine_id, held)
        except errors.Failure as failure:
            if failure.code != "not_found":
                raise
            return
        if lease.nonce:
            self._nonces[machine_id] = lease.nonce

    async def take_again(self, machine_ids: Iterable[str]) -> None:
        """Take over what whoever carried the run before had; what cannot be had is left.

        Whoever touches such a machine then is told by its host.
        """
        for machine_id in machine_ids:
            try:
                await self.take(machine_id)
            except (errors.Failure, runner.Abort, runner.Retry) as error:
                logger.info("the lease of %s is not taken over: %s", machine_id, error)

    async def keep(self) -> None:
        """Prolong what is held, for ever."""
        while True:
            await self._ctx.clock.sleep(_REFRESH_S)
            room = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(self._prolong(one, room) for one in list(self._nonces)))

    async def give_back(self, machine_id: str) -> None:
        """Give one back; what fails is given back with the rest, or lapses by itself."""
        async with self._turns[machine_id]:
            nonce = self._nonces.pop(machine_id, None)
            if nonce is None:
                return
            who, app = self._order.who, self._order.app
            try:
                await leases.release(self._ctx, who, app, machine_id, nonce)
            except errors.Failure as failure:
                logger.info("the lease of %s is given back later: %s", machine_id, failure.message)
                if failure.code in ("unavailable", "deadline_exceeded"):
                    self._nonces[machine_id] = nonce

    async def give_all_back(self) -> None:
        """Give everything back; what resists lapses by itself."""
        for _ in range(_TRIES):
            await asyncio.gather(*(self.give_back(one) for one in list(self._nonces)))
            if not self._nonces:
                return
            await self._ctx.clock.sleep(_PAUSE_S)

    def forget(self, machine_id: str) -> None:
        """Prolong a machine's lease no more: it is gone."""
        self._nonces.pop(machine_id, None)

    async def _taken_over(self, machine_id: str, held: leases.Held) -> host_rpc.Lease:
        """Return the lease this run took before, when another control carried it."""
        who, app = self._order.who, self._order.app
        try:
            lease = await leases.get(self._ctx, who, app, machine_id)
        except errors.Failure as failure:
            if failure.code != "not_found":
                raise
            raise runner.Retry(held.message, 0.2) from failure
        if lease.description != self._description:
            raise runner.Abort(f"machine {machine_id}: {held.message}")
        return lease

    async def _prolong(self, machine_id: str, room: asyncio.Semaphore) -> None:
        try:
            async with room, self._turns[machine_id]:
                nonce = self._nonces.get(machine_id)
                if nonce is None:
                    return
                wanted = leases.NewLease(ttl_s=TTL_S, description=self._description, nonce=nonce)
                who, app = self._order.who, self._order.app
                lease = await leases.acquire(self._ctx, who, app, machine_id, wanted)
                # One that had lapsed meanwhile is taken anew, and may have another proof.
                if lease.nonce and machine_id in self._nonces:
                    self._nonces[machine_id] = lease.nonce
        except errors.Failure as failure:
            if failure.code == "not_found":
                self.forget(machine_id)
            logger.info("the lease of %s is prolonged later: %s", machine_id, failure.message)
