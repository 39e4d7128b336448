"""What to do with each machine after the agent was away. Pure: (recorded, observed) → verdict.

The journal is the truth about what was done, the host about what exists.

    recorded                      observed                     verdict
    operation, all steps known    tap as the journal says      Resume
    operation, all steps known    tap plumbed but gone         Again   (the host was restarted)
    suspend, parked by `down`     no shim                      Start   (`down` stopped it)
    operation, a step unknown     –                            Park    (of the operation only)
    started                       shim and tap                 Adopt
    started                       shim without tap             Restart (nobody reaches it)
    started, parked by `down`     no shim                      Start
    started                       no shim                      Ended   (exit.json, or a crash)
    suspended                     shim or tap                  Clear   (disk and snapshot stay)
    failed                        –                            Clear   (a disk may be left)
    anything else                 shim or tap                  Clear
    anything else                 nothing                      Rest
    no record                     shim or tap                  → `orphans`
"""

from collections.abc import Iterable
from dataclasses import dataclass

from godwit.agent.machines import lifecycle


@dataclass(frozen=True)
class Recorded:
    """What the agent's database says of one machine.

    Attributes:
        operation: Its unfinished operation.
        missing_step: A step of it that this build does not have.
        plumbed: The operation recorded its tap as made, and did not get as far as removing it.
        parked: `godwit down` stopped it; it is to come back.
    """

    state: lifecycle.State
    operation: lifecycle.Kind | None = None
    missing_step: str | None = None
    plumbed: bool = False
    parked: bool = False


@dataclass(frozen=True)
class Observed:
    """What the host has of one machine."""

    shim: bool
    tap: bool


@dataclass(frozen=True)
class Resume:
    """Run what is left of the operation."""


@dataclass(frozen=True)
class Again:
    """Run the operation from its first step: what it made is gone."""


@dataclass(frozen=True)
class Park:
    """Give up its operation, which this build cannot finish.

    Attributes:
        runs: It was started and its VM is there: it goes on as it is.
    """

    step: str
    runs: bool = False


@dataclass(frozen=True)
class Adopt:
    """It runs; watch it."""


@dataclass(frozen=True)
class Restart:
    """It runs without a network: a new tap does not reach a VM that holds the lost one."""


@dataclass(frozen=True)
class Ended:
    """It ended while nobody looked: take in its exit."""


@dataclass(frozen=True)
class Start:
    """It was put aside; bring it back."""


@dataclass(frozen=True)
class Clear:
    """It rests, but something of it is left: take that down."""


@dataclass(frozen=True)
class Rest:
    """Nothing to do."""


Verdict = Resume | Again | Park | Adopt | Restart | Ended | Start | Clear | Rest


def recover(recorded: Recorded, observed: Observed) -> Verdict:
    """Say what to do with one machine."""
    if recorded.operation is not None:
        return _unfinished(recorded, observed)
    if recorded.state == "started":
        if observed.shim:
            return Adopt() if observed.tap else Restart()
        return Start() if recorded.parked else Ended()
    left = observed.shim or observed.tap or recorded.state == "failed"
    return Clear() if left else Rest()


def _unfinished(recorded: Recorded, observed: Observed) -> Verdict:
    if recorded.missing_step is not None:
        runs = recorded.state == "started" and observed.shim and observed.tap
        return Park(recorded.missing_step, runs=runs)
    if recorded.operation == "suspend" and recorded.parked and not observed.shim:
        return Start()
    return Again() if recorded.plumbed and not observed.tap else Resume()


@dataclass(frozen=True)
class Orphans:
    """What the host has that no record accounts for."""

    shims: frozenset[str]
    slots: frozenset[int]


def orphans(
    known_ids: Iterable[str],
    known_slots: Iterable[int],
    shims: frozenset[str],
    slots: frozenset[int],
) -> Orphans:
    """Say what has to be removed because nobody owns it."""
    return Orphans(shims - frozenset(known_ids), slots - frozenset(known_slots))
