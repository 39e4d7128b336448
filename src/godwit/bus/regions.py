"""Control's connections to the buses of all regions, and its requests to hosts over them.

Regions' servers are not linked: control is a client of each. What concerns a host goes to the
bus of its region; a region whose bus is away is told from one that nobody knows.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.bus import rpc
from godwit.bus.connection import Connection
from godwit.wire import host_rpc
from godwit.wire.record import Record

Servers = Mapping[str, Sequence[str]]
"""`nats://host:port` of each region's servers."""

_A_MAJORITY_OUTLIVES_ONE = 3


def replicas(servers: Sequence[str]) -> int:
    """Return how many of a region's servers keep each stream: three, or one of fewer."""
    return 3 if len(servers) >= _A_MAJORITY_OUTLIVES_ONE else 1


class Regions:
    """One connection for each region, dialled in the background."""

    def __init__(self, seed: str, name: str) -> None:
        self._seed = seed
        self._name = name
        self._links: dict[str, tuple[frozenset[str], Connection]] = {}

    def connection(self, region: str) -> Connection:
        """Return a region's connection, up or not.

        Raises:
            Failure: `unavailable` when no server of the region is known.
        """
        found = self._links.get(region)
        if found is None:
            raise errors.Failure("unavailable", f"no bus of region {region} is known")
        return found[1]

    def connections(self) -> dict[str, Connection]:
        """Return the connection of every region that has one."""
        return {region: link for region, (_, link) in self._links.items()}

    async def keep(self, servers: Servers) -> tuple[list[str], list[str]]:
        """Have connections to these servers and no others.

        Returns:
            The regions whose connection is gone, and those that have a new one; a region whose
            servers changed is among both.
        """
        wanted = {region: frozenset(named) for region, named in servers.items() if named}
        gone = [name for name, (at, _) in self._links.items() if wanted.get(name) != at]
        for region in gone:
            await self._links.pop(region)[1].close()
        new = [region for region in wanted if region not in self._links]
        for region in new:
            made = Connection(sorted(wanted[region]), self._seed, self._name)
            self._links[region] = (wanted[region], await made.__aenter__())
        return gone, new

    async def close(self) -> None:
        """Close every connection; bounded."""
        await self.keep({})


class Hosts:
    """Control's `Hosts` port (`control.ports`).

    Args:
        regions: The connections.
        region_of: Which region a host is in, `None` for one that nobody knows.
        hosts_of: Which hosts of a region take machines.
    """

    def __init__(
        self,
        regions: Regions,
        region_of: Callable[[str], Awaitable[str | None]],
        hosts_of: Callable[[str], Awaitable[Sequence[str]]],
    ) -> None:
        self._regions = regions
        self._region_of = region_of
        self._hosts_of = hosts_of

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
            Failure: What the host said, or `unavailable` / `deadline_exceeded`.
        """
        region = await self._region_of(host_id)
        if region is None:
            raise errors.Failure("unavailable", f"host {host_id} is not known")
        return await self._client(region).call(host_id, verb, body, principal, timeout_s)

    async def bids(
        self,
        region: str,
        request: host_rpc.BidRequest,
        wait_s: float = 1.0,
        *,
        hosts: int = rpc.MAX_BIDDERS,
    ) -> list[host_rpc.Bid]:
        """Ask a region's hosts for bids; return those that came in time.

        Of a region with more than `MAX_BIDDERS`, so many are asked, drawn anew each time, and
        others while none of those has room: what fits anywhere finds its place, and usually few
        are troubled.

        Raises:
            Failure: `unavailable` while the region's bus is away.
        """
        client = self._client(region)
        there = list(await self._hosts_of(region))
        if len(there) <= rpc.MAX_BIDDERS:
            return await client.bids(region, request, wait_s, hosts=hosts)
        random.shuffle(there)
        found: list[host_rpc.Bid] = []
        for first in range(0, len(there), rpc.MAX_BIDDERS):
            asked = there[first : first + rpc.MAX_BIDDERS]
            found += await client.bids(region, request, wait_s, asked=asked)
            if any(bid.fits for bid in found):
                break
        # Agents of the former release know only of the question to everybody.
        return found or await client.bids(region, request, wait_s, hosts=hosts)

    def _client(self, region: str) -> rpc.Client:
        link = self._regions.connection(region)
        if not link.up:
            raise errors.Failure(
                "unavailable",
                f"the bus of region {region} is away",
                hint=f"`godwit doctor` on a host of {region} says why",
            )
        return rpc.Client(link)
