"""All machines of this host: takes on new ones, finds them again, brings them back at start-up.

Owns the drivers. Called by the RPC, the catalog socket and `agent.app`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from godwit.agent import books, ports, slots
from godwit.agent.machines import (
    config,
    driver,
    events,
    holdings,
    lifecycle,
    mailbox,
    mending,
    operations,
    records,
    recovery,
    revisions,
    steps,
    store,
    views,
    work,
)
from godwit.base import errors, log, processes, tasks
from godwit.base.principal import Principal
from godwit.durable import journal, runner
from godwit.durable.database import Transaction
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

_LOGS_KEPT_MS = 15 * 60_000
_RECORDS_KEPT_MS = 48 * 3_600_000
_CLEAN_UP_S = 60.0

Changed = Callable[[driver.Driver], None]
Dropped = Callable[[str], None]


class Machines:
    """The machines of one host."""

    def __init__(
        self,
        host: work.Host,
        ledger: journal.Journal,
        the_books: books.Books,
        owned: tasks.Tasks,
    ) -> None:
        self._host = host
        self._journal = ledger
        self._books = the_books
        self._tasks = owned
        self._drivers: dict[str, driver.Driver] = {}
        self._apps: dict[str, set[str]] = {}
        self._listeners: list[Changed] = []
        self._on_drop: list[Dropped] = []
        self._taking_on = asyncio.Lock()
        self._last_slot = slots.FIRST_SLOT - 1
        self.store = store.Store(host.database)
        self._revisions = revisions.Revisions(self.store, owned)
        self._mender = mending.Mender(host, lambda: self)
        self._shared = mailbox.Shared(
            host=host,
            journal=ledger,
            runner=runner.Runner(ledger, host.clock, steps.CATALOGUE),
            tasks=owned,
            hold=the_books.hold,
            changed=self._changed,
            revision=self._revisions.take,
        )

    def on_change(self, listener: Changed) -> None:
        """Call a listener after every change of any machine."""
        self._listeners.append(listener)

    def on_drop(self, listener: Dropped) -> None:
        """Call a listener with the id of a machine whose record is dropped for good."""
        self._on_drop.append(listener)

    def __iter__(self) -> Iterator[driver.Driver]:
        return iter(tuple(self._drivers.values()))

    def __len__(self) -> int:
        return len(self._drivers)

    def take_revision(self) -> int:
        """Return the next revision of this host's records."""
        return self._revisions.take()

    def find(self, machine_id: str) -> driver.Driver | None:
        """Return a machine by its id, for the host's own parts."""
        return self._drivers.get(machine_id)

    def get(self, who: Principal, machine_id: str) -> driver.Driver:
        """Return a machine that the principal may see.

        Raises:
            Failure: `not_found`, also for other organizations' machines.
        """
        found = self._drivers.get(machine_id)
        if found is None or not who.may_see(found.machine.org_id, found.machine.app_id):
            raise errors.not_found(f"machine {machine_id} is not on this host")
        return found

    def of_app(self, who: Principal, app_id: str) -> list[driver.Driver]:
        """Return an app's machines that the principal may see, by id."""
        found = (self._drivers[each] for each in sorted(self._apps.get(app_id, ())))
        return [each for each in found if who.may_see(each.machine.org_id, app_id)]

    def running_of_app(self, app_id: str) -> int:
        """Return how many machines of an app are here, destroyed ones not counted."""
        ids = self._apps.get(app_id, ())
        return sum(self._drivers[each].machine.state != "destroyed" for each in ids)

    async def reserve(self, who: Principal, offer: host_rpc.Offer) -> driver.Driver:
        """Take on a machine and begin to launch it; idempotent by its id.

        Raises:
            Failure: `insufficient_capacity`, `conflict` (the id is another organization's).
        """
        who.require("machines:write", offer.org_id, app_id=offer.app_id)
        async with self._taking_on:
            known = self._drivers.get(offer.machine_id)
            if known is not None:
                if known.machine.org_id != offer.org_id:
                    raise errors.Failure("conflict", f"{offer.machine_id} is taken")
                return known
            if offer.skip_launch:
                reasons = self._books.reasons(offer.resources)
                if reasons:
                    raise errors.Failure("insufficient_capacity", "; ".join(reasons))
            else:
                self._books.hold(offer.machine_id, offer.resources)
            try:
                return await self._take_on(who, offer)
            except BaseException:
                if offer.machine_id not in self._drivers:
                    self._books.release(offer.machine_id)
                raise

    async def _take_on(self, who: Principal, offer: host_rpc.Offer) -> driver.Driver:
        machine = records.from_offer(offer, self._next_slot(), self._host.clock.now_ms())
        # A standby rests until what it stands by for is lost with its host.
        rests = offer.skip_launch or bool(config.standbys(offer.config))
        kind: lifecycle.Kind = "prepare" if rests else "start"
        source = "user" if not who.subject.startswith("component:") else "flyd"
        intent = journal.Intent(
            subject=machine.machine_id,
            org_id=machine.org_id,
            kind=kind,
            steps=operations.OPERATIONS[kind].steps,
            input={"source": source, "from_rest": True},
        )
        created = (
            (events.make(self._host.event_ids, machine, None, "launch", "created", source=source),)
            if rests
            else ()
        )

        def also(tx: Transaction) -> None:
            store.put_machine(tx, machine)
            if offer.secrets is not None:
                holdings.put_secrets(tx, machine, machine.instance_id, offer.secrets)
            for event in created:
                store.add_event(tx, machine.org_id, event)

        run = await self._journal.begin(intent, also)
        taken = self._add(machine, run, created)
        self._tasks.spawn(taken.live(), name=machine.machine_id)
        return taken

    def _next_slot(self) -> int:
        """Return a free slot, the longest unused first.

        Raises:
            Failure: `insufficient_capacity` when a million machines are here.
        """
        taken = {
            each.machine.slot
            for each in self._drivers.values()
            if each.machine.state != "destroyed"
        }
        span = slots.LAST_SLOT - slots.FIRST_SLOT + 1
        for step in range(1, span + 1):
            slot = slots.FIRST_SLOT + (self._last_slot - slots.FIRST_SLOT + step) % span
            if slot not in taken:
                self._last_slot = slot
                return slot
        raise errors.Failure("insufficient_capacity", "every slot of this host is taken")

    def _add(
        self,
        machine: records.Machine,
        run: journal.Run | None,
        known: tuple[records.Event, ...],
    ) -> driver.Driver:
        made = driver.Driver(self._shared, machine, run, known)
        self._drivers[machine.machine_id] = made
        self._apps.setdefault(machine.app_id, set()).add(machine.machine_id)
        self._changed(machine.machine_id)
        return made

    def _changed(self, machine_id: str) -> None:
        changed = self._drivers.get(machine_id)
        if changed is None:
            return
        machine = self._host.sized(changed.machine)
        needed = views.needs(machine, changed.run)
        if needed is None:
            self._books.release(machine.machine_id)
        else:
            self._books.hold_anyway(machine.machine_id, needed)
        for listener in self._listeners:
            listener(changed)

    # -- start-up -----------------------------------------------------------------------

    async def recover(self) -> None:
        """Bring every machine back: resume, adopt, take in exits, clear remains, remove orphans.

        The caller has started the network. Returns when every decision is on disk; what was
        decided goes on in the drivers.
        """
        await self._revisions.load()
        self._host.event_ids.not_before(await self.store.newest_event_ms())
        runs = {run.subject: run for run in await self._journal.unfinished()}
        shims = await self._host.vmm.observed()
        taps = await self._host.network.observed()
        parked = await self.store.fact("parked") is not None
        alive_at_ms = int(await self.store.fact("alive_at_ms") or 0)
        for machine in await self.store.machines():
            newest = tuple(await self.store.events(machine.machine_id, 5))
            known = self._add(machine, runs.get(machine.machine_id), newest)
            # A destroyed one's too: who still knows its address must not take another for it.
            self._last_slot = max(self._last_slot, machine.slot)
            if machine.state == "destroyed" and known.run is None:
                continue
            recorded = self._recorded(known, parked=parked)
            observed = recovery.Observed(
                shim=machine.machine_id in shims, tap=machine.slot in taps
            )
            with log.bound(**machine.about):
                await self._apply(known, recovery.recover(recorded, observed), alive_at_ms)
            self._tasks.spawn(known.live(), name=machine.machine_id)
        await self._remove_orphans(shims, taps)
        if parked:
            await self.store.set_fact("parked", None)

    def _recorded(self, known: driver.Driver, *, parked: bool) -> recovery.Recorded:
        run = known.run
        missing = None
        if run is not None:
            have = self._shared.runner.known
            missing = next((step for step in run.steps if step not in have), None)
        return recovery.Recorded(
            state=known.machine.state,
            operation=known.operation,
            missing_step=missing,
            plumbed=run is not None and "plumb_network" in run.done,
            parked=parked,
        )

    async def _apply(
        self, known: driver.Driver, verdict: recovery.Verdict, alive_at_ms: int
    ) -> None:
        if not isinstance(verdict, recovery.Rest):
            logger.info("%s: %s", known.machine.machine_id, verdict)
        if isinstance(verdict, recovery.Again) and known.operation is not None:
            await known.begin_recovery(known.operation)
        elif isinstance(verdict, recovery.Park):
            await known.park_unknown(verdict.step, runs=verdict.runs)
        elif isinstance(verdict, recovery.Start):
            await known.begin_recovery("start")
        elif isinstance(verdict, recovery.Restart):
            await known.begin_recovery("restart")
        elif isinstance(verdict, recovery.Clear):
            await known.begin_recovery("clear")
        elif isinstance(verdict, recovery.Ended):
            known.lost_before(alive_at_ms)

    async def _remove_orphans(self, shims: frozenset[str], taps: frozenset[int]) -> None:
        alive = [each.machine for each in self if each.machine.state != "destroyed"]
        found = recovery.orphans(
            (machine.machine_id for machine in alive),
            (machine.slot for machine in alive),
            shims,
            taps,
        )
        vmm, network = self._host.vmm, self._host.network

        async def remove_shim(machine_id: str) -> None:
            # Nobody knows its slot any more.
            await vmm.discard(machine_id, 0)
            await vmm.forget(machine_id)

        async def remove_tap(slot: int) -> None:
            await network.unplumb(ports.Plumbing("", "", "", 1, slot))

        for machine_id in found.shims:
            await cautiously(f"orphan {machine_id}", remove_shim(machine_id))
        for slot in found.slots:
            await cautiously(f"orphan tap {slot}", remove_tap(slot))

    async def mend(self) -> None:
        """Mend what came apart beside the machines' own doings."""
        await self._mender.round()

    # -- housekeeping -------------------------------------------------------------------

    async def tidy(self) -> None:
        """Remove the logs, later the records, of machines destroyed a while ago.

        What could not be removed is tried again; until then the record stays, as the only thing
        that tells of it.
        """
        now_ms = self._host.clock.now_ms()
        for each in self:
            machine = each.machine
            if machine.state != "destroyed" or machine.destroyed_at_ms is None:
                continue
            age_ms = now_ms - machine.destroyed_at_ms
            if not machine.forgotten and age_ms >= _LOGS_KEPT_MS:
                with log.bound(**machine.about):
                    forgetting = self._host.vmm.forget(machine.machine_id)
                    if await cautiously(f"logs of {machine.machine_id}", forgetting):
                        await each.mark_forgotten()
            if each.machine.forgotten and age_ms >= _RECORDS_KEPT_MS:
                await self._drop(machine)

    async def _drop(self, machine: records.Machine) -> None:
        await self.store.drop(machine.machine_id)
        del self._drivers[machine.machine_id]
        siblings = self._apps[machine.app_id]
        siblings.discard(machine.machine_id)
        if not siblings:
            del self._apps[machine.app_id]
        for listener in self._on_drop:
            listener(machine.machine_id)

    async def still_alive(self) -> None:
        """Write down that this agent is at work: where intervals end that nobody saw end."""
        now_ms = self._host.clock.now_ms()
        await self.store.set_fact("alive_at_ms", str(now_ms), synced=False)


async def cautiously(what: str, doing: Awaitable[None], within_s: float = _CLEAN_UP_S) -> bool:
    """Clean up; what cannot be cleaned now is said and left for the next time.

    Returns:
        Whether it is done.
    """
    try:
        async with asyncio.timeout(within_s):
            await doing
    except (OSError, ValueError, errors.Failure, processes.ProgramFailed) as error:
        logger.warning("%s could not be cleaned up: %s", what, error)
        return False
    return True
