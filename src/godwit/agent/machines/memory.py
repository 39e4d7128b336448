"""How much memory a machine has: what its config says, until it is asked to have more or less.

A change is made by the VMM's balloon, within `guest.max_memory_mb`; it is kept through restarts
and ends with the next update. What a machine has is what the host's books hold for it, so growing
may be refused like a start. `sized` is how everything that counts memory sees a machine.
"""

import asyncio
from typing import Any

from godwit.agent import books, ports
from godwit.agent.machines import config as settings
from godwit.agent.machines import holdings, records, usage, views
from godwit.base import clock, errors
from godwit.durable.database import Transaction, Writer
from godwit.wire import host_rpc

LEAST_MB = 64
_MB = 1024 * 1024


class MemoryLimits:
    """What this host's machines were asked to have.

    Args:
        database: Where it is stored.
        vmm: Who has the balloons.
        the_books: What the host has.
        the_clock: When intervals of usage end.
    """

    def __init__(
        self,
        database: Writer,
        vmm: ports.Vmm,
        the_books: books.Books,
        the_clock: clock.Clock,
    ) -> None:
        self._database = database
        self._vmm = vmm
        self._books = the_books
        self._clock = the_clock
        self._limits: dict[str, holdings.Limit] = {}
        self._busy: dict[str, asyncio.Lock] = {}

    async def load(self) -> None:
        """Read what an earlier agent stored."""
        self._limits = await self._database.read(holdings.limits)

    def drop(self, machine_id: str) -> None:
        """Forget a machine whose record is gone."""
        self._limits.pop(machine_id, None)
        self._busy.pop(machine_id, None)

    def sized(self, machine: records.Machine) -> records.Machine:
        """Return a machine's record with the memory it has, or will be started with."""
        limit = self._limits.get(machine.machine_id)
        if limit is None or limit.instance_id != machine.instance_id:
            return machine
        resources = machine.resources.model_copy(update={"memory_mb": limit.limit_mb})
        return machine.model_copy(update={"resources": resources})

    async def set(self, snapshot: views.Snapshot, limit_mb: int) -> None:
        """Give a running machine more or less memory, and remember it.

        The books hold the larger of both meanwhile; the caller has them made right afterwards
        (`Driver.touch`), however this ends.

        Raises:
            Failure: `invalid_argument`, `insufficient_capacity`, `failed_precondition` (it does
                not run, or its VMM has no balloon).
        """
        machine = snapshot.machine
        most_mb = machine.resources.grown.memory_mb
        if not LEAST_MB <= limit_mb <= most_mb:
            raise errors.invalid(
                f"limit_mb: must be within {LEAST_MB}..{most_mb}",
                hint="guest.max_memory_mb is how far a machine may grow; raise it with an update",
            )
        async with self._busy.setdefault(machine.machine_id, asyncio.Lock()):
            has = self.sized(machine).resources
            wanted = has.model_copy(update={"memory_mb": limit_mb})
            self._books.hold(machine.machine_id, views.larger(has, wanted))
            await self._vmm.set_memory(machine.machine_id, limit_mb)
            await self._keep(machine, limit_mb)

    async def _keep(self, machine: records.Machine, limit_mb: int) -> None:
        limit = holdings.Limit(instance_id=machine.instance_id, limit_mb=limit_mb)
        self._limits[machine.machine_id] = limit
        now_ms = self._clock.now_ms()

        def work(tx: Transaction) -> None:
            holdings.put_limit(tx, machine, limit)
            usage.resize(tx, machine.machine_id, limit_mb, now_ms)

        await self._database.write(work)


def available_mb(stats: dict[str, Any]) -> int:
    """Return what a guest's kernel could give to programs, by its answer to `stats`."""
    memory = settings.mapping(stats.get("memory"))
    return settings.number(memory.get("available"), 0) // _MB


def told(machine: records.Machine, stats: dict[str, Any]) -> host_rpc.Memory:
    """Return a machine's memory as clients see it; never more available than it has."""
    limit_mb = machine.resources.memory_mb
    return host_rpc.Memory(available_mb=min(available_mb(stats), limit_mb), limit_mb=limit_mb)
