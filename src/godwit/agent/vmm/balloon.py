"""How much memory running guests have: the VMM's balloon, and the limit of the VMM with it.

A guest obeys when it can, and a hostile one does not: its VMM is held to what it should have by
its cgroup. So the limit is raised before the guest is told, and lowered after it has obeyed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from godwit.agent.vmm import cgroups, hypervisor, places
from godwit.base import errors
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

_OBEYS_S = 5.0
_STALLS_S = 1.0
_LOOK_S = 0.05
_LEAST_MB = 64


class Balloons:
    """The balloons of a host's machines."""

    def __init__(
        self, where: places.Places, vmm: hypervisor.Hypervisor, groups: cgroups.Cgroups
    ) -> None:
        self._places = where
        self._vmm = vmm
        self._cgroups = groups

    async def fill(self, machine_id: str, resources: host_rpc.Resources) -> None:
        """Have a guest that has just begun keep what it begins with of what it may grow to.

        Raises:
            Failure: Its VMM does not take it.
        """
        if resources.max_memory_mb:
            await self._vmm.set_balloon(self._places.monitor(machine_id), resources.memory_mb)

    async def set_memory(self, machine_id: str, limit_mb: int) -> None:
        """Have a guest keep that much memory.

        Raises:
            Failure: `failed_precondition` when it does not run or has no balloon.
        """
        with _told(machine_id):
            monitor = self._places.monitor(machine_id)
            has_mb = await self._vmm.balloon_mb(monitor)
            if limit_mb > has_mb:
                self._limit(machine_id, limit_mb)
            await self._vmm.set_balloon(monitor, limit_mb)
            left_mb = await self._obeyed(machine_id, limit_mb)
            if left_mb <= limit_mb:
                self._limit(machine_id, limit_mb)
            else:
                logger.info("machine %s still has %d MB, not %d", machine_id, left_mb, limit_mb)

    async def reclaim(self, machine_id: str, amount_mb: int) -> int:
        """Take what a guest can spare, and let it have it again when it needs it.

        Returns:
            How much the host got back, in MB.

        Raises:
            Failure: `failed_precondition` when it does not run or has no balloon.
        """
        with _told(machine_id):
            monitor = self._places.monitor(machine_id)
            had_mb = await self._vmm.balloon_mb(monitor)
            target_mb = max(_LEAST_MB, had_mb - amount_mb)
            try:
                await self._vmm.set_balloon(monitor, target_mb)
                return max(0, had_mb - await self._obeyed(machine_id, target_mb))
            finally:
                await self._vmm.set_balloon(monitor, had_mb)

    async def _obeyed(self, machine_id: str, target_mb: int) -> int:
        """Return what a guest has once it has obeyed, or does not come nearer to it."""
        monitor = self._places.monitor(machine_id)
        loop = asyncio.get_running_loop()
        begun = moved = loop.time()
        last_mb = has_mb = await self._vmm.balloon_mb(monitor)
        while has_mb != target_mb:
            now = loop.time()
            if has_mb != last_mb:
                last_mb, moved = has_mb, now
            if now - begun > _OBEYS_S or now - moved > _STALLS_S:
                break
            await asyncio.sleep(_LOOK_S)
            has_mb = await self._vmm.balloon_mb(monitor)
        return has_mb

    def _limit(self, machine_id: str, limit_mb: int) -> None:
        size = host_rpc.Resources(memory_mb=limit_mb)
        limits = cgroups.limits(size, self._vmm.overhead_mb)
        try:
            self._cgroups.set_memory(machine_id, limits.memory_bytes)
        except errors.Failure as refused:
            # It holds more than that still: the former limit stays.
            logger.warning("machine %s: %s", machine_id, refused.message)


@contextlib.contextmanager
def _told(machine_id: str) -> Iterator[None]:
    """Turn what a VMM says into what is wrong with the request."""
    try:
        yield
    except errors.Failure as error:
        raise errors.Failure(
            "failed_precondition",
            f"the memory of machine {machine_id} cannot be changed: {error.message}",
            hint="a machine whose memory is to change needs guest.max_memory_mb in its config",
        ) from error
