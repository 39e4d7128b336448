"""The agent put together: machines, checks, facts, local catalog, RPC, housekeeping.

Receives its ports; `godwit.cmd.agent` makes them. Starting order: the network, the machines
(adopted, resumed, cleared), then the faces. Nothing here waits for the bus.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from godwit.agent import books, ports, system_log
from godwit.agent.catalog_socket import CatalogSocket
from godwit.agent.checks import Checks
from godwit.agent.machines import registry, store, views, waits, work
from godwit.agent.machines.driver import Driver
from godwit.agent.publisher import Publisher, Stream
from godwit.agent.rpc import Handler, Rpc
from godwit.base import clock, errors, tasks
from godwit.base.principal import component
from godwit.durable import database, journal
from godwit.wire import facts, host_rpc

logger = logging.getLogger(__name__)

SCHEMA: database.Schema = {"journal": journal.SCHEMA, "agent": store.SCHEMA}
_ALIVE_EVERY_S = 15.0
_TIDY_EVERY_S = 60.0
_EDGE = component("edge")


@dataclass(frozen=True)
class Parts:
    """What the agent is made of.

    Attributes:
        catalog_socket: Where edge and DNS of this host read the local truth.
    """

    identity: views.Identity
    capacity: books.Capacity
    images: ports.Images
    network: ports.Network
    vmm: ports.Vmm
    clock: clock.Clock
    database: database.Writer
    catalog_socket: Path


def make_host(parts: Parts) -> work.Host:
    """Return what machines' operations reach the outside by."""
    return work.Host(
        host_id=parts.identity.host_id,
        region=parts.identity.region,
        images=parts.images,
        network=parts.network,
        vmm=parts.vmm,
        clock=parts.clock,
        random=os.urandom,
        database=parts.database,
        event_ids=store.EventIds(parts.clock),
        log=system_log.SystemLog(parts.vmm.logs_directory, parts.clock),
    )


class App:
    """One agent."""

    def __init__(self, parts: Parts, owned: tasks.Tasks) -> None:
        self._parts = parts
        self._tasks = owned
        self._began_ms = parts.clock.now_ms()
        self.books = books.Books(parts.capacity)
        self.journal = journal.Journal(parts.database, parts.clock)
        self.machines = registry.Machines(make_host(parts), self.journal, self.books, owned)
        self.publisher = Publisher(parts.clock)
        self.checks = Checks(parts.clock, owned, self._check_turned)
        self._rpc = Rpc(parts.identity, self.machines, self.checks, parts.vmm)
        self._catalog = CatalogSocket(parts.catalog_socket, self.publisher, self.wake, owned)
        self._bidder = books.Bidder(
            host_id=parts.identity.host_id,
            region=parts.identity.region,
            zone=parts.identity.zone,
            books=self.books,
            has_image=parts.images.has,
            machines_of=self.machines.running_of_app,
        )
        self.machines.on_change(self._machine_changed)
        self.machines.on_drop(self.publisher.drop)

    def handlers(self) -> Mapping[str, Handler]:
        """Return the RPC handlers."""
        return self._rpc.handlers()

    async def bid(self, request: host_rpc.BidRequest) -> host_rpc.Bid:
        """Answer a request for bids."""
        return self._bidder.bid(request)

    async def start(self) -> None:
        """Bring network and machines back, then open the local catalog."""
        await self._parts.network.start()
        await self.machines.recover()
        self._tell_host()
        self._tasks.spawn(self._catalog.run(), name="catalog")
        self._tasks.spawn(self._every(_ALIVE_EVERY_S, self.machines.still_alive), name="alive")
        self._tasks.spawn(self._every(_TIDY_EVERY_S, self.machines.tidy), name="tidy")

    def publish_to(self, stream: Stream) -> None:
        """Publish facts to the bus from now on."""
        self._tasks.spawn(self.publisher.run(stream, self._tasks), name="publish")

    async def wake(self, machine_id: str) -> None:
        """Start a machine for a request that waits at the edge; returns once it runs.

        Raises:
            Failure: It cannot be started.
        """
        driver = self.machines.get(_EDGE, machine_id)
        await driver.ask("start", {"source": "flyd"})
        answer = await driver.wait(waits.Wanted(("started",)))
        if isinstance(answer, waits.Impossible):
            raise errors.Failure("failed_precondition", answer.sentence)
        if isinstance(answer, waits.Gone):
            raise errors.not_found(f"machine {machine_id} is destroyed")

    def _machine_changed(self, driver: Driver) -> None:
        """A machine changed: its checks follow, then the world is told."""
        snapshot, machine = driver.snapshot, driver.machine
        boot = None
        if snapshot.shown == "started":
            boot = f"{machine.instance_id}:{machine.started_at_ms}"
        self.checks.follow(
            machine.machine_id,
            boot,
            machine.config,
            snapshot.local_ipv4,
            adopted=(machine.started_at_ms or self._began_ms) < self._began_ms,
        )
        passing = self.checks.passing(machine.machine_id, machine.config)
        fact = views.fact(self._parts.identity, snapshot, passing)
        self.publisher.tell(machine.machine_id, fact)

    def _check_turned(self, machine_id: str) -> None:
        driver = self.machines.find(machine_id)
        if driver is not None:
            driver.touch()

    def _tell_host(self) -> None:
        identity = self._parts.identity
        fact = facts.HostFact(
            owner=identity.host_id,
            epoch=identity.epoch,
            revision=self.machines.take_revision(),
            host_id=identity.host_id,
            region=identity.region,
            zone=identity.zone,
        )
        self.publisher.tell(f"host.{identity.host_id}", fact)

    async def _every(self, seconds: float, doing: registry.Chore) -> None:
        while True:
            try:
                await doing()
            except (OSError, errors.Failure) as error:
                logger.warning("housekeeping: %s", error)
            await self._parts.clock.sleep(seconds)
