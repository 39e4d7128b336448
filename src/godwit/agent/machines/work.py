"""What a step works with: the host's ports, its machine, and the one way to write history.

The driver makes a `Work` for each run of an operation; steps read and change nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from godwit.agent import ports
from godwit.agent.machines import events, exits, records, store
from godwit.base.clock import Clock
from godwit.durable.database import Transaction, Writer
from godwit.durable.journal import Run


class MachineLog(Protocol):
    """The platform's lines in a machine's log."""

    def write(self, machine_id: str, text: str) -> None:
        """Add a line; never fails."""


@dataclass(frozen=True)
class Host:
    """Everything a machine's operations reach the outside by.

    Attributes:
        random: Returns that many bytes nobody can guess.
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

    async def note(self, type_: str, status: str, request: dict[str, Any] | None = None) -> None:
        """Add an event, once per run and type."""
        event = events.make(
            self.host.event_ids, self.machine, self.run, type_, status, request=request
        )
        added = await self.host.database.write(
            lambda tx: store.add_event(tx, self.machine.org_id, event)
        )
        if added:
            self._told(self.machine, (event,))

    async def note_exit(self) -> exits.Exit | None:
        """Take in how the machine's process ended: event, exit code, end of usage.

        The same exit is taken in once, however often this runs.

        Returns:
            The exit; `None` when nothing had run.
        """
        host = self.host
        asked_of = self.machine
        record = await host.vmm.exit_record(asked_of.machine_id, asked_of.instance_id)
        event_id, now_ms = host.event_ids.mint()
        lost_at_ms = int(self.run.input.get("ended_at_ms") or now_ms)
        machine = self.machine

        def work(
            tx: Transaction,
        ) -> tuple[exits.Exit, records.Machine, records.Event | None] | None:
            opened = store.usage_opened_at(tx, machine.machine_id)
            if record is not None:
                found = exits.of_record(record)
            elif opened is not None:
                found = exits.lost(machine.instance_id, opened, max(opened, lost_at_ms))
            else:
                return None
            event = records.Event(
                id=event_id,
                machine_id=machine.machine_id,
                instance_id=machine.instance_id,
                key=found.key,
                type="exit",
                status="stopped",
                source="flyd",
                timestamp=now_ms,
                request=found.request(
                    requested=bool(self.run.input.get("requested")),
                    restarting=self.run.kind == "relaunch",
                    restart_count=machine.restarts.count,
                ),
            )
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
        return found
