"""The hosts as one run hears them: since when each has been silent.

Stands where control's own `Hosts` port is in everything a run uses, so that whatever is asked of
a host counts: a step's question, or a lease that is prolonged.
"""

from typing import Any

from godwit.base import errors
from godwit.base.clock import Clock
from godwit.base.principal import Principal
from godwit.control import machines, ports
from godwit.wire import host_rpc
from godwit.wire.record import Record


class Listening:
    """Control's `Hosts` port, which remembers who does not answer.

    Args:
        hosts: Who is asked.
        clock: Silence is measured on its monotonic seconds.
    """

    def __init__(self, hosts: ports.Hosts, clock: Clock) -> None:
        self._hosts = hosts
        self._clock = clock
        self._since: dict[str, float] = {}

    def silent_s(self, host_id: str) -> float:
        """Return how long a host has not answered, 0 for one that did the last time."""
        since = self._since.get(host_id)
        return 0.0 if since is None else self._clock.monotonic() - since

    async def call(
        self,
        host_id: str,
        verb: str,
        body: Record | dict[str, Any],
        principal: Principal,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Ask one host and return the body of its answer.

        Raises:
            Failure: As the port's own.
        """
        try:
            answer = await self._hosts.call(host_id, verb, body, principal, timeout_s)
        except errors.Failure as failure:
            if failure.code in machines.SILENT:
                self._since.setdefault(host_id, self._clock.monotonic())
            else:
                self._since.pop(host_id, None)
            raise
        self._since.pop(host_id, None)
        return answer

    async def bids(
        self, region: str, request: host_rpc.BidRequest, wait_s: float = 1.0, *, hosts: int = 8
    ) -> list[host_rpc.Bid]:
        """Return what the hosts of a region bid; who bids is there."""
        found = await self._hosts.bids(region, request, wait_s, hosts=hosts)
        for bid in found:
            self._since.pop(bid.host_id, None)
        return found
