"""The agent put together: machines, checks, facts, local catalog, RPC, housekeeping.

Receives its ports; `godwit.cmd.agent` makes them. Starting order: the network, the machines
(adopted, resumed, cleared), then the faces. Nothing here waits for the bus.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.agent import books, burst, control_line, logs, meters, ports, rpc, system_log, upkeep
from godwit.agent.catalog_socket import CatalogSocket
from godwit.agent.checks import Checks
from godwit.agent.container_probes import ContainerProbes
from godwit.agent.draining import Drains
from godwit.agent.guest_api.answers import Answers
from godwit.agent.guest_api.connections import Connections
from godwit.agent.guest_api.deeds import Deeds
from godwit.agent.image_keeper import ImageKeeper
from godwit.agent.machines import config as settings
from godwit.agent.machines import (
    leases,
    memory,
    metadata,
    records,
    registry,
    scheduler,
    secrets,
    standing,
    store,
    usage,
    views,
    waits,
    work,
)
from godwit.agent.machines.driver import Driver
from godwit.agent.policies import Policies
from godwit.agent.publisher import Publisher, Stream
from godwit.agent.rpc import guests
from godwit.agent.rpc.desk import OfMachine, parse
from godwit.agent.rpc.terminals import TerminalDesk
from godwit.agent.terminals import Terminals
from godwit.agent.token_files import TokenFiles
from godwit.base import clock, errors, log, tasks
from godwit.base.principal import Principal, component
from godwit.durable import database, journal
from godwit.images import collection
from godwit.wire import facts, guest_api, host_rpc

logger = logging.getLogger(__name__)

SCHEMA: database.Schema = {"journal": journal.SCHEMA, "agent": store.SCHEMA}
_ALIVE_EVERY_S = 15.0
_MEND_EVERY_S = 30.0
_DUE_EVERY_S = 15.0
_TIDY_EVERY_S = 60.0
_METER_EVERY_S = 60.0
_CPU_ACCOUNTS = "cpu_accounts"
_IMAGES_EVERY_S = 300.0
_DEEDS_EVERY_S = 30.0
_USAGE_EXPIRES_EVERY_S = 3_600.0
_EDGE = component("edge")
_REST_AFTER_S = 30.0
"""So long a machine that is not needed is given for the requests that it has."""


@dataclass(frozen=True)
class Parts:
    """What the agent is made of.

    Attributes:
        catalog_socket: Where edge and DNS of this host read the local truth.
        image_rules: When an image goes that nothing needs.
        usage_kept_ms: How long usage intervals stay after their end.
        meter: What usage intervals are counted by.
        sealing_key: Opens what is sealed for this host.
        fly_src_key: As `work.Host`.
        cpu: Holds machines to their baseline and balance; `None` lets each use its vCPUs.
    """

    identity: views.Identity
    capacity: books.Capacity
    images: ports.Images
    network: ports.Network
    vmm: ports.Vmm
    clock: clock.Clock
    database: database.Writer
    catalog_socket: Path
    image_rules: collection.Rules = field(default_factory=collection.Rules)
    usage_kept_ms: int = 400 * 86_400_000
    meter: meters.Meter = field(default_factory=meters.NoMeter)
    cpu: burst.Cpu | None = None
    sealing_key: X25519PrivateKey | None = None
    fly_src_key: Callable[[], str] = str


def make_host(
    parts: Parts,
    control: ports.Control | None = None,
    limits: memory.MemoryLimits | None = None,
    withdrawn: work.Withdrawn = work.at_once,
    answered: work.Answered = work.at_once,
) -> work.Host:
    """Return what machines' operations reach the outside by."""

    async def last_words(machine_id: str, since_ms: int) -> tuple[str, ...]:
        return await logs.last_words(parts.vmm.logs_directory(machine_id), since_ms)

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
        secrets=secrets.Secrets(parts.database, parts.sealing_key),
        meter=parts.meter,
        last_words=last_words,
        control=control or control_line.ControlLine(),
        withdrawn=withdrawn,
        answered=answered,
        standings=standing.Standings(),
        fly_src_key=parts.fly_src_key,
        **({} if limits is None else {"sized": limits.sized}),
    )


class App:
    """One agent."""

    def __init__(self, parts: Parts, owned: tasks.Tasks) -> None:
        self._parts = parts
        self._tasks = owned
        self._began_ms = parts.clock.now_ms()
        self.books = books.Books(parts.capacity)
        self.journal = journal.Journal(parts.database, parts.clock)
        self._control = control_line.ControlLine()
        limits = memory.MemoryLimits(parts.database, parts.vmm, self.books, parts.clock)
        host = make_host(parts, self._control, limits, self._withdrawn, self._answered)
        self.machines = registry.Machines(host, self.journal, self.books, owned)
        self._scheduler = scheduler.Scheduler(lambda: self.machines, parts.clock, owned)
        self.image_keeper = ImageKeeper(
            parts.images, self.machines, parts.vmm, parts.clock, parts.image_rules
        )
        parts.images.when_full(self.image_keeper.make_room)
        self._metering = usage.Metering(
            parts.meter, parts.database, self._running, parts.clock.now_ms
        )
        self.bursts = None if parts.cpu is None else burst.Bursts(parts.cpu, parts.clock)
        self.publisher = Publisher(parts.clock)
        self.checks = Checks(parts.clock, owned, self._turned)
        self._catalog = CatalogSocket(
            parts.catalog_socket, self.publisher, self.wake, self.rest, owned
        )
        self._drains = Drains(parts.clock, owned, self._catalog, self._turned)
        self._policies = Policies(parts.network, self.machines.store, owned)
        self._desk = rpc.Desk(
            identity=parts.identity,
            machines=self.machines,
            checks=self.checks,
            vmm=parts.vmm,
            database=parts.database,
            leases=leases.Leases(parts.database, parts.clock, os.urandom),
            metadata=metadata.MetadataBook(parts.database, parts.clock),
            memory=limits,
            drains=self._drains,
            secrets=host.secrets,
            standings=host.standings,
            policies=self._policies,
        )
        self._container_probes = ContainerProbes(self._desk.session, parts.clock, owned)
        host.standings.on_change(self._containers_told)
        self._token_files = self._make_token_files(host)
        handlers = rpc.handlers(self._desk)
        self._deeds = Deeds(parts.database, self._control, parts.clock, owned)
        own = {
            verb: self._deeds.noting(verb, rpc.answering(handlers[f"machine.{verb}"]))
            for verb in get_args(guest_api.OwnVerb)
        }
        self._guest_api = Connections(parts.vmm, Answers(own, self._control), parts.clock, owned)
        self.terminals = Terminals(parts.clock, owned)
        self._bidder = self._make_bidder()
        self.machines.on_change(self._machine_changed)
        self.machines.on_drop(self.publisher.drop)
        for beside in (self._desk.leases, self._desk.metadata, self._desk.memory):
            self.machines.on_drop(beside.drop)

    def _make_bidder(self) -> books.Bidder:
        identity = self._parts.identity
        return books.Bidder(
            host_id=identity.host_id,
            region=identity.region,
            zone=identity.zone,
            books=self.books,
            has_image=self._parts.images.has,
            machines_of=self.machines.running_of_app,
        )

    def _make_token_files(self, host: work.Host) -> TokenFiles:
        return TokenFiles(
            self._desk.session,
            self._control,
            host.secrets,
            say=host.log.write,
            the_clock=self._parts.clock,
            owned=self._tasks,
        )

    def handlers(self) -> Mapping[str, rpc.Handler]:
        """Return the RPC handlers."""
        found: Mapping[str, rpc.Handler] = {
            **rpc.handlers(self._desk),
            **TerminalDesk(self._desk, self.terminals).handlers(),
            **self.image_keeper.handlers(),
            **self._policies.handlers(),
            "machine.cpu": self.read_cpu,
        }
        return {verb: rpc.answering(handler) for verb, handler in found.items()}

    async def read_cpu(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return a machine's CPU share; none where machines use what there is."""
        machine_id = parse(OfMachine, body).machine_id
        self._desk.find(who, "machines:read", machine_id)
        found = None if self.bursts is None else self.bursts.figures(machine_id)
        return {"cpu": None if found is None else found.model_dump()}

    def tell_distances(self, hosts: Mapping[str, int], regions: Mapping[str, int]) -> None:
        """Let this host's DNS know how far others are, in microseconds there and back."""
        self._catalog.tell_distances(hosts, regions)

    async def bid(self, request: host_rpc.BidRequest) -> host_rpc.Bid:
        """Answer a request for bids."""
        return self._bidder.bid(request)

    async def start(self) -> None:
        """Bring network and machines back, then open the local catalog."""
        for beside in (self._desk.leases, self._desk.metadata, self._desk.memory):
            await beside.load()
        await self._policies.load()
        for machine in await self.machines.store.machines():
            self._judge(machine)
        await self._parts.network.start()
        if self.bursts is not None:
            self.bursts.load(await self.machines.store.fact(_CPU_ACCOUNTS))
        await self.machines.recover()
        await self.image_keeper.load()
        self._tell_host()
        self._keep(_USAGE_EXPIRES_EVERY_S, self._expire_usage, "usage")
        self._tasks.keep(self._catalog.run(), name="catalog")
        self._keep(_ALIVE_EVERY_S, self.machines.still_alive, "alive")
        self._keep(_TIDY_EVERY_S, self.machines.tidy, "tidy")
        self._keep(_MEND_EVERY_S, self.machines.mend, "mend")
        self._keep(_MEND_EVERY_S, self._policies.settle, "policies")
        self._keep(_DUE_EVERY_S, self._scheduler.tick, "schedules")
        self._tasks.keep(self._meter(), name="metering")
        if self.bursts is not None:
            self._tasks.keep(self.bursts.run(), name="bursts")
            self._keep(_ALIVE_EVERY_S, self.keep_accounts, "accounts")
        self._keep(_IMAGES_EVERY_S, self.image_keeper.sweep, "images")
        self._keep(_DEEDS_EVERY_S, self._deeds.tell, "deeds")

    def ask_control(self, control: ports.Control) -> None:
        """Ask control by this from now on."""
        self._control.put_through(control)

    async def _expire_usage(self) -> None:
        before_ms = self._parts.clock.now_ms() - self._parts.usage_kept_ms
        await self.machines.store.expire_usage(before_ms)

    def _keep(self, every_s: float, doing: upkeep.Chore, name: str) -> None:
        self._tasks.keep(upkeep.every(self._parts.clock, every_s, doing), name=name)

    def publish_to(self, stream: Stream) -> None:
        """Publish facts to the bus from now on."""
        self._tasks.keep(self.publisher.run(stream, self._tasks), name="publish")

    async def rest(self, machine_id: str, suspend: bool) -> None:
        """Stop or suspend a machine that the edge finds to be one too many.

        What it has in flight ends first; it stays when that does not end in time.

        Raises:
            Failure: It is not there, in no state to rest, or to run whatever the load.
        """
        driver = self.machines.get(_EDGE, machine_id)
        # What the edge has seen may be of a config that was replaced a moment ago.
        if views.autostop(driver.machine.config) == "off":
            raise errors.Failure("failed_precondition", f"autostop of {machine_id} is off")
        with log.bound(**driver.machine.about):
            left = await self._drains.drain(machine_id, _REST_AFTER_S)
            if left.requests or left.silent:
                self._drains.undrain(machine_id)
                return
            logger.info("%s is not needed: it is put to rest", machine_id)
            try:
                if suspend:
                    await driver.ask("suspend", {"or_stop": True, "source": "flyd"})
                else:
                    await driver.ask("stop", {"source": "flyd"})
            except errors.Failure:
                self._drains.undrain(machine_id)
                raise

    async def wake(self, machine_id: str) -> None:
        """Start a machine for a request that waits at the edge; returns once it runs.

        Raises:
            Failure: It cannot be started.
        """
        driver = self.machines.get(_EDGE, machine_id)
        with log.bound(**driver.machine.about):
            await driver.ask("wake", {"source": "flyd"})
            answer = await driver.wait(waits.Wanted(("started",)))
        if isinstance(answer, waits.Impossible):
            raise errors.Failure("failed_precondition", answer.sentence)
        if isinstance(answer, waits.Gone):
            raise errors.not_found(f"machine {machine_id} is destroyed")

    def _judge(self, machine: records.Machine) -> None:
        written = self._desk.metadata.written(machine.machine_id, machine.instance_id)
        values = settings.metadata(machine.config) if written is None else written.values
        self._policies.follow(machine, values)

    def _machine_changed(self, driver: Driver) -> None:
        """A machine changed: its checks follow, then the world is told."""
        with log.bound(**driver.machine.about):
            self._follow(driver)

    def _follow(self, driver: Driver) -> None:
        snapshot, machine = driver.snapshot, driver.machine
        self._judge(machine)
        boot = None
        if snapshot.shown == "started":
            boot = f"{machine.instance_id}:{machine.started_at_ms}"
        told = self._desk.standings.of(machine.machine_id)
        self.checks.follow(
            machine.machine_id,
            boot,
            machine.config,
            snapshot.local_ipv4,
            adopted=(machine.started_at_ms or self._began_ms) < self._began_ms,
            resumed=views.resumed(snapshot),
            run=functools.partial(self._run_check, driver),
            told=told,
        )
        self._container_probes.follow(driver, boot, told)
        self._guest_api.follow(driver, boot)
        self._token_files.follow(driver, boot)
        if self.bursts is not None:
            self.bursts.follow(machine.machine_id, boot, machine.resources)
        passing = self.checks.passing(machine.machine_id, machine.config)
        written = self._desk.metadata.written(machine.machine_id, machine.instance_id)
        draining = self._drains.follow(machine.machine_id, boot)
        fact = views.fact(self._parts.identity, snapshot, passing, written, draining=draining)
        self.publisher.tell(machine.machine_id, fact)

    def _containers_told(self, machine_id: str) -> None:
        told = self._desk.standings.of(machine_id)
        self.checks.hear(machine_id, told)
        self._container_probes.hear(machine_id, told)

    async def _run_check(
        self, driver: Driver, command: tuple[str, ...], timeout_s: float
    ) -> host_rpc.ExecAnswer:
        machine_id = driver.machine.machine_id
        asked = host_rpc.ExecRequest(machine_id=machine_id, command=command, timeout_s=timeout_s)
        asked = guests.meant(driver, asked)
        opened = await self._desk.secrets.opened(driver.machine)
        async with self._desk.session(driver) as session:
            return await session.exec(asked, guests.environment(driver, opened, asked.container))

    async def _withdrawn(self, machine_id: str) -> None:
        await self._drains.acted_upon(machine_id)

    async def _answered(self, machine_id: str) -> None:
        await self._guest_api.answered(machine_id)

    def _turned(self, machine_id: str) -> None:
        """Something beside a machine's state has changed."""
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
            backhaul=identity.backhaul,
        )
        self.publisher.tell(f"host.{identity.host_id}", fact)

    def _running(self) -> dict[str, int]:
        """Return the machines whose process runs, with their slots."""
        started = (each.machine for each in self.machines if each.snapshot.shown == "started")
        return {machine.machine_id: machine.slot for machine in started}

    async def _meter(self) -> None:
        # Not at once: drivers first take in what ended while no agent was here.
        await self._parts.clock.sleep(_METER_EVERY_S)
        await upkeep.every(self._parts.clock, _METER_EVERY_S, self._metering.round)

    async def keep_accounts(self) -> None:
        """Store the CPU accounts for the next agent."""
        if self.bursts is not None:
            kept = self.bursts.dump()
            await self.machines.store.set_fact(_CPU_ACCOUNTS, kept, synced=False)
