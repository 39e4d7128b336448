"""What is written down when a deploy begins: all that its steps may know of it.

A successor of a control that died reads nothing else but this, the release and what was
journaled since.
"""

import hashlib
from typing import Literal

from godwit.base import principal
from godwit.base.principal import Principal, Scope
from godwit.wire.record import Record

Strategy = Literal["rolling", "immediate", "canary", "bluegreen"]
Kind = Literal["deploy", "secrets", "rollback"]

SCOPES: frozenset[Scope] = frozenset(
    {"apps:read", "apps:write", "machines:read", "machines:write", "images:pull", "logs:read"}
)
"""What a deploy needs; it never acts with more, whoever asked for it."""

ATTEMPTS = 20
"""How many ids a machine that a run makes may take: one that was given up is never taken again."""


class Settings(Record):
    """How a deploy goes: options, else the config, else the defaults (spec/config-cli.md §1.3).

    Attributes:
        release_command_timeout_s: `None` sets no limit.
    """

    strategy: Strategy = "rolling"
    max_unavailable: float = 0.33
    max_concurrent: int = 8
    wait_timeout_s: float = 300.0
    release_command_timeout_s: float | None = 300.0
    smoke_checks: bool = True
    auto_rollback: bool = True
    signal: str | None = None
    drain_timeout_s: float = 60.0


class Slot(Record):
    """A machine that the deploy makes.

    Attributes:
        key: Tells it from the others of the run; its machine ids follow from it.
        machine_id: Its first id; one that was given up is followed by the next.
        standby_for: The key of the slot, or the id of the machine, whose host it watches.
        start: Whether it is started; else it is prepared and rests.
        replaces: The machine whose place it takes.
    """

    key: str
    machine_id: str
    group: str
    region: str
    standby_for: tuple[str, ...] = ()
    start: bool = True
    replaces: str = ""


class Update(Record):
    """A machine that gets the new release in place.

    Attributes:
        start: Whether it is started by that; one that rests goes on resting.
        version: What it has now, and gets back if the deploy is rolled back.
        metadata: As it is now; its version's may be older.
        cordoned: Whether the edges leave it alone, and shall afterwards.
    """

    machine_id: str
    group: str
    region: str
    start: bool
    version: str
    metadata: dict[str, str] = {}
    cordoned: bool = False


class Removal(Record):
    """A machine that goes: its group is in the config no more, or an earlier deploy left it."""

    machine_id: str
    group: str
    region: str


class Plan(Record):
    """What a deploy does to machines.

    Attributes:
        seed_command: Empty once one has succeeded.
        create: For groups that have none.
        update: In place; with `bluegreen` the machines that are replaced.
        greens: What replaces them.
        unchanged: Machines that are left as they are.
        at_once: How many of a group's running machines are updated at a time.
    """

    strategy: Strategy
    release_command: str = ""
    seed_command: str = ""
    create: tuple[Slot, ...] = ()
    canaries: tuple[Slot, ...] = ()
    greens: tuple[Slot, ...] = ()
    update: tuple[Update, ...] = ()
    destroy: tuple[Removal, ...] = ()
    unchanged: tuple[str, ...] = ()
    at_once: dict[str, int] = {}
    sentences: tuple[str, ...] = ()

    @property
    def touched(self) -> list[str]:
        """The machines that are there and change or go."""
        return [
            *(one.machine_id for one in self.update),
            *(one.machine_id for one in self.destroy),
        ]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every machine that may be made, those of the release command and of tests aside."""
        return (*self.create, *self.canaries, *self.greens)


class Order(Record):
    """The input of a run.

    Attributes:
        subject: Who asked for it.
        region: Where new machines go.
    """

    kind: Kind
    subject: str
    org_id: str
    app_id: str
    app: str
    release_id: str
    version: int
    image: str
    region: str
    settings: Settings
    plan: Plan

    @property
    def who(self) -> Principal:
        """On whose behalf it acts: the requester, in the app's organization alone."""
        return acting(self.subject, self.org_id)


def acting(subject: str, org_id: str) -> Principal:
    """Return who a deploy acts as: somebody, in one organization, with what deploys need."""
    return principal.Principal(subject=subject, org_ids=frozenset({org_id}), scopes=SCOPES)


def well_mark(machine_id: str) -> str:
    """Return the mark of a machine whose place has the release, and is well."""
    return f"well/{machine_id}"


def elsewhere_key(machine_id: str) -> str:
    """Return the mark of a machine that gives up its place, and the key of who takes it."""
    return f"elsewhere/{machine_id}"


def check_key(tested: str, number: int) -> str:
    """Return the key of the machine that tests another one."""
    return f"check/{tested}/{number}"


def stays_mark(machine_id: str) -> str:
    """Return the mark of a machine that does not get its place back."""
    return f"stays/{machine_id}"


def machine_id(run_id: str, key: str, attempt: int = 0) -> str:
    """Return the id of a machine that a run makes: the same again, whoever carries it on."""
    return hashlib.sha256(f"{run_id}/{key}/{attempt}".encode()).hexdigest()[:14]
