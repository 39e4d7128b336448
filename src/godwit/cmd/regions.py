"""What control does in each region: tells and follows its catalog, and answers its hosts.

Every region has a connection, a publisher and a reader of its own; one that is away holds up no
other. Composed here, of parts that know of one region only.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from godwit.base import errors, tasks
from godwit.bus import control_rpc
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.bus.regions import Regions, Servers, replicas
from godwit.control.context import Context
from godwit.control.publisher import Publisher, Publishers
from godwit.control.records import Host
from godwit.control.strays import Strays
from godwit.control.watcher import Watcher
from godwit.wire import members

logger = logging.getLogger("godwit.control")


@dataclass(frozen=True)
class _Link:
    """One region's work."""

    stream: FactStream
    owned: tasks.Tasks = field(repr=False)


_LOOK_S = 5.0
_PAGE = 200


def servers(here: Host, local: str, hosts: Iterable[Host]) -> dict[str, tuple[str, ...]]:
    """Return where each region's bus is.

    Args:
        here: The host this control is on.
        local: Where the bus of this host answers, if it has one.
        hosts: All, the removed ones among them.
    """
    found: dict[str, list[members.BusHost]] = {}
    for host in hosts:
        own = host.id == here.id and "bus" in here.roles
        at = local if own else host.services.get("bus")
        if at is not None:
            one = members.BusHost(host.number, f"nats://{at}", host.state == "removed")
            found.setdefault(host.region, []).append(one)
    serving = {region: members.serving(some) for region, some in found.items()}
    return {region: tuple(sorted(named)) for region, named in serving.items() if named}


class RegionLinks:
    """Control's work in all regions.

    Args:
        regions: The connections; kept here.
        handlers: What hosts may ask control (`control.host_requests`).
        owned: Owns what goes on as long as control does.
    """

    def __init__(
        self,
        ctx: Context,
        regions: Regions,
        handlers: Mapping[str, control_rpc.Handler],
        owned: tasks.Tasks,
    ) -> None:
        self._ctx = ctx
        self._regions = regions
        self._handlers = handlers
        self._links: dict[str, _Link] = {}
        self._publishers = Publishers(ctx)
        strays = Strays(ctx)
        self._watcher = Watcher(ctx, self._publishers.republish, strays)
        owned.spawn(self._publishers.run(), name="publish")
        owned.spawn(strays.run(), name="strays")
        owned.spawn(self._watcher.apply(), name="apply")

    async def keep(self, servers: Servers) -> None:
        """Work in these regions and no others."""
        gone, new = await self._regions.keep(servers)
        for region in gone:
            if (link := self._links.pop(region, None)) is not None:
                self._publishers.remove(region)
                await link.owned.cancel()
        for region in new:
            self._links[region] = await self._work(region, replicas(servers[region]))
        if gone or new:
            logger.info("control works in the regions %s", ", ".join(sorted(self._links)))

    async def follow(self, here: Host, local: str) -> None:
        """Work wherever the database knows of a bus, for ever."""
        while True:
            try:
                hosts = await self._everybody()
            except errors.Failure as failure:
                logger.warning("the regions are looked up later: %s", failure.message)
            else:
                await self.keep(servers(here, local, hosts))
            await self._ctx.clock.sleep(_LOOK_S)

    async def _everybody(self) -> list[Host]:
        """Return every host there is and was."""
        found: list[Host] = []
        while True:
            after = found[-1].number if found else 0
            async with self._ctx.store.read() as rows:
                page = await rows.hosts.page(after, _PAGE)
            found += page
            if len(page) < _PAGE:
                return found

    async def close(self) -> None:
        """End the work; bounded."""
        for region, link in list(self._links.items()):
            self._publishers.remove(region)
            await link.owned.cancel()
        self._links.clear()
        await self._regions.close()

    async def bury(self, before: datetime) -> int:
        """Remove tombstones of machines that were published before a time, in all regions.

        Raises:
            Failure: `unavailable` when a region is away; the others were seen to.
        """
        buried, failures = 0, []
        for link in list(self._links.values()):
            try:
                buried += await link.stream.bury(before)
            except errors.Failure as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
        return buried

    async def _came_up(
        self, connection: Connection, stream: FactStream, publisher: Publisher
    ) -> None:
        """Have the stream as it should be, which may have to wait for servers; tell everything."""
        told = False
        while connection.up:
            try:
                await stream.ensure(migrate=True)
            except errors.Failure as failure:
                logger.warning("the stream %s is not as it should be: %s", stream.name, failure)
            else:
                break
            finally:
                if not told:
                    publisher.republish()
                    told = True
            await self._ctx.clock.sleep(_LOOK_S)

    async def _work(self, region: str, copies: int) -> _Link:
        connection = self._regions.connection(region)
        stream = FactStream(connection, region, replicas=copies)
        owned = tasks.Tasks(f"control.{region}", grace_s=2.0)
        publisher = self._publishers.add(region, stream)
        connection.on_up(lambda: self._came_up(connection, stream, publisher))
        owned.spawn(publisher.run(), name="publish")
        owned.spawn(self._watcher.read(stream), name="read")
        await control_rpc.serve(connection, owned, self._handlers)
        return _Link(stream, owned)
