"""What a step works with: the host's ports, its machine, and the one way to write history.

The driver makes a `Work` for each run of an operation; steps read and change nothing else.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from godwit.agent import control_line, meters, ports
from godwit.agent.machines import events, exits, records, secrets, standing, store, usage
from godwit.base.clock import Clock
from godwit.durable.database import Transaction, Writer
from godwit.durable.journal import Run
from godwit.wire import shim


class MachineLog(Protocol):
    """The platform's lines in a machine's log."""

    def write(self, machine_id: str, text: str) -> None:
        """Add a line; never fails."""


Sized = Callable[[records.Machine], records.Machine]
"""Returns a machine's record with the memory it has now (`memory.MemoryLimits.sized`)."""
Withdrawn = Callable[[str], Awaitable[None]]
"""Returns once this host's edges know that a machine takes nothing more, or soon anyway."""
Answered = Callable[[str], Awaitable[None]]
"""Returns once a machine that asked for its own end has its answer, or soon anyway."""
LastWords = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""Returns the last lines of a machine's own output since a Unix time in ms; bounded."""


def _as_configured(machine: records.Machine) -> records.Machine:
    return machine


async def at_once(_: str) -> None:
    """Wait for nobody."""


async def _silent(_: str, __: int) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Host:
    """Everything a machine's operations reach the outside by.

    Attributes:
        random: Returns that many bytes nobody can guess.
        fly_src_key: Returns the public key of `Fly-Src`, hex; empty while there is none.
    """

    host_id: str
    region: str
    images: ports.Images
    network: ports.Network
    vmm: ports.Vmm
    clock: Clock
    random: Callable[[int], bytes]
    database: Writer
    event_ids: store.EventIds
    log: MachineLog
    secrets: secrets.Secrets
    control: ports.Control = field(default_factory=control_line.ControlLine)
    sized: Sized = _as_configured
    meter: meters.Meter = field(default_factory=meters.NoMeter)
    last_words: LastWords = _silent
    withdrawn: Withdrawn = at_once
    answered: Answered = at_once
    standings: standing.Standings = field(default_factory=standing.Standings)
    fly_src_key: Callable[[], str] = str


Told = Callable[[records.Machine, tuple[records.Event, ...]], None]


class Work:
    """One run of an operation on one machine.

    Args:
        current: Returns the machine's record as it is now.
        told: Takes a changed record and new events, after they were stored.
    """

    def __init__(
        self, host: Host, run: Run, current: Callable[[], records.Machine], told: Told
    ) -> None:
        self.host = host
        self.run = run
        self._current = current
        self._told = told

    @property
    def machine(self) -> records.Machine:
        """Return the machine as it is now."""
        return self._current()

    @property
    def input(self) -> dict[str, Any]:
        """Return what the operation was begun with."""
        return dict(self.run.input)

    def say(self, text: str) -> None:
        """Put a line of the platform's into the machine's log."""
        self.host.log.write(self.machine.machine_id, text)

    async def store(self, machine: records.Machine) -> None:
        """Store a changed record."""
        await self.host.database.write(lambda tx: store.put_machine(tx, machine))
        self._told(machine, ())

    async def note(
        self, type_: events.Type, status: str, request: dict[str, Any] | None = None
    ) -> None:
        """Add an event, once per run and type."""
        event = events.make(
            self.host.event_ids, self.machine, self.run, type_, status, request=request
        )
        added = await self.host.database.write(
            lambda tx: store.add_event(tx, self.machine.org_id, event)
        )
        if added:
            self._told(self.machine, (event,))

    async def count_use(self) -> None:
        """Add up what the machine has used; its counters end with its VM."""
        machine_id, slot = self.machine.machine_id, self.machine.slot
        reading = self.host.meter.read({machine_id: slot}).get(machine_id, meters.Reading())

        def work(tx: Transaction) -> bool:
            return usage.count(tx, machine_id, reading)

        await self.host.database.write(work, synced=False)

    async def note_exit(self) -> exits.Exit | None:
        """Take in how the machine's process ended: event, exit code, end of usage.

        The same exit is taken in once, however often this runs.

        Returns:
            The exit; `None` when nothing had run.
        """
        await self.count_use()
        host = self.host
        asked_of = self.machine
        record = await host.vmm.exit_record(asked_of.machine_id, asked_of.instance_id)
        saved = await self._was_saved(asked_of, record)
        ran_out = await host.vmm.ran_out(asked_of.machine_id)
        last_words = await self._last_words(record)
        event_id, now_ms = host.event_ids.mint()
        lost_at_ms = int(self.run.input.get("ended_at_ms") or now_ms)
        machine = self.machine

        def work(
            tx: Transaction,
        ) -> tuple[exits.Exit, records.Machine, records.Event | None] | None:
            opened = store.usage_opened_at(tx, machine.machine_id)
            if saved:
                store.close_usage(tx, machine.machine_id, now_ms)
                return None
            if record is not None:
                found = exits.of_record(record, ran_out=ran_out)
            elif opened is not None:
                found = exits.lost(machine.instance_id, opened, max(opened, lost_at_ms))
            else:
                return None
            event = self._exit_event(machine, found, last_words, (event_id, now_ms))
            added = store.add_event(tx, machine.org_id, event)
            store.close_usage(tx, machine.machine_id, found.at_ms)
            after = machine.model_copy(update={"exit_code": found.code})
            store.put_machine(tx, after)
            return found, after, event if added else None

        taken = await host.database.write(work)
        if taken is None:
            return None
        found, after, event = taken
        if event is not None:
            self.say(found.sentence)
            self._told(after, (event,))
        return replace(found, last_words=last_words)

    async def _was_saved(self, machine: records.Machine, record: shim.ExitRecord | None) -> bool:
        """Tell whether what was there is saved: a VM that is thrown away then has not exited.

        A guest that told of its process's end has ended, whatever was saved before.
        """
        if record is not None and record.guest is not None:
            return False
        if machine.state == "suspended":
            return True
        vmm = self.host.vmm
        return machine.state == "started" and await vmm.has_snapshot(
            machine.machine_id, machine.instance_id
        )

    def _exit_event(
        self,
        machine: records.Machine,
        found: exits.Exit,
        last_words: tuple[str, ...],
        minted: tuple[str, int],
    ) -> records.Event:
        return records.Event(
            id=minted[0],
            machine_id=machine.machine_id,
            instance_id=machine.instance_id,
            key=found.key,
            type="exit",
            status="stopped",
            source="flyd",
            timestamp=minted[1],
            request=found.request(
                requested=bool(self.run.input.get("requested")),
                restarting=self.run.kind == "relaunch",
                restart_count=machine.restarts.count,
                last_words=last_words,
            ),
        )

    async def _last_words(self, record: shim.ExitRecord | None) -> tuple[str, ...]:
        """Return what the process wrote last, when it ended badly and nobody asked for it."""
        crashed = record is None or record.guest is None or record.guest.exit_code != 0
        if self.run.input.get("requested") or not crashed:
            return ()
        machine = self.machine
        ran = machine.state == "started" and machine.started_at_ms is not None
        since_ms = machine.started_at_ms if ran else machine.updated_at_ms
        return await self.host.last_words(machine.machine_id, since_ms or 0)
