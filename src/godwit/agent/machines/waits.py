"""When a wait for a machine's state is over (spec/machines.md §3.6). Pure.

What was reached since the last start counts, so that a process that ends at once does not make
a wait for `started` hang.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from godwit.agent.machines import lifecycle

SETTLED = "settled"
DEADLINE = "machine failed to reach desired state, {want}, currently {have}"


@dataclass(frozen=True)
class Reached:
    """One entry of a machine's trail: it was in that state.

    Attributes:
        event_id: Of the newest event at that time.
    """

    state: str
    version: str
    event_id: str


@dataclass(frozen=True)
class Wanted:
    """What is waited for.

    Attributes:
        after_event_id: Only what was reached by a later event counts.
    """

    states: tuple[str, ...]
    version: str | None = None
    after_event_id: str | None = None


@dataclass(frozen=True)
class Pending:
    """Not yet."""


@dataclass(frozen=True)
class Impossible:
    """It will not come to that from here."""

    sentence: str


@dataclass(frozen=True)
class Gone:
    """The machine is destroyed."""


Answer = Reached | Pending | Impossible | Gone


def judge(
    wanted: Wanted,
    trail: Sequence[Reached],
    leads_to: lifecycle.State,
    *,
    version: str,
    sentence: str = "",
) -> Answer:
    """Say whether a wait is over.

    Args:
        wanted: What is waited for.
        trail: States since the last start, the present one last; never empty.
        leads_to: State the machine will rest in.
        version: The one in place or on its way.
        sentence: Why the machine is as it is.
    """
    for entry in reversed(trail):
        if _matches(wanted, entry, present=entry is trail[-1]):
            return entry
    present = trail[-1].state
    if present == "destroyed":
        return Gone()
    if wanted.version not in (None, version):
        return Impossible(f"version {wanted.version} was replaced by {version}")
    open_ended = SETTLED in wanted.states or "destroyed" in wanted.states
    if leads_to == "destroyed" and not open_ended:
        return Impossible("machine is being destroyed")
    if present == leads_to == "failed" and not open_ended:
        return Impossible(f"machine is failed: {sentence}" if sentence else "machine is failed")
    return Pending()


def _matches(wanted: Wanted, entry: Reached, *, present: bool) -> bool:
    if wanted.version is not None and entry.version != wanted.version:
        return False
    if wanted.after_event_id and entry.event_id <= wanted.after_event_id:
        return False
    if entry.state in wanted.states:
        return True
    return SETTLED in wanted.states and present and entry.state not in lifecycle.TRANSIENT
