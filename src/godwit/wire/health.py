"""Whether a machine is well: a pure judgement over what is seen of it.

Control judges by what a host tells, clients by what the API tells: the same rules for both.

Rules: spec/config-cli.md §3.4. A machine is well when its checks pass and it has stayed up for a
while. One that exits by itself with an error, twice since somebody last asked it to run, is not.
A restart by policy is no fresh beginning: its launch counts the restarts since then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

STEADY_S = 10.0
"""How long a machine has to stay up."""
GONE = frozenset({"failed", "launch_failed", "destroyed", "destroying", "replaced"})
RESTING = frozenset({"stopped", "suspended"})
_CRASHES = 2
_ASKS = frozenset({"update", "restart"})
"""Somebody asked for another run; its launch is yet to come."""


class SeenEvent(Protocol):
    """One entry of a machine's history."""

    @property
    def id(self) -> str:
        """Names it."""

    @property
    def type(self) -> str:
        """What happened."""

    @property
    def request(self) -> dict[str, Any] | None:
        """With what."""


class SeenCheck(Protocol):
    """The last result of a check."""

    @property
    def name(self) -> str:
        """Which."""

    @property
    def status(self) -> str:
        """How it went."""

    @property
    def output(self) -> str:
        """What it said."""


class Seen(Protocol):
    """A machine, its events newest first."""

    @property
    def state(self) -> str:
        """Where it is."""

    @property
    def config(self) -> dict[str, Any]:
        """What it was given."""

    @property
    def events(self) -> Sequence[SeenEvent]:
        """What happened to it."""

    @property
    def checks(self) -> Sequence[SeenCheck]:
        """How its checks went."""


@dataclass(frozen=True)
class Verdict:
    """What is thought of a machine, in a word and a sentence.

    Attributes:
        steadying: Nothing but its time up is missing: it is well or not well within `STEADY_S`,
            which counts against nobody's time to become well.
    """

    word: Literal["well", "not yet", "not well"]
    sentence: str
    steadying: bool = field(default=False, compare=False)


def judge(machine: Seen, *, up_s: float, smoke: bool = True, doing: str = "") -> Verdict:
    """Return what is thought of a machine that shall run.

    Args:
        machine: As its host shows it now.
        up_s: For how long it has been seen up without a break.
        smoke: Whether it has to stay up for a while.
        doing: What its host is doing with it, if that is known.
    """
    crashes = _crashes(machine)
    if machine.state in GONE:
        return Verdict("not well", f"is {machine.state}{_because(machine, crashes)}")
    if machine.state in RESTING:
        return _resting(machine, crashes)
    if len(crashes) >= _CRASHES or (crashes and _restarts(machine) > 1):
        return Verdict("not well", f"keeps crashing{_because(machine, crashes)}")
    if machine.state != "started":
        busy = f" ({doing})" if doing else ""
        return Verdict("not yet", f"is {machine.state}{_because(machine, crashes)}{busy}")
    return _running(machine, up_s if smoke else STEADY_S)


def lost(machine: Seen, version: str, well_start: str | None) -> str:
    """Return what happened to a machine since it was well; empty when it is as it was.

    Args:
        machine: As its host shows it now.
        version: Its own.
        well_start: Its `last_start` when it was well; `None` where nobody knows any more, which
            forgives it one crash as before.
    """
    crashes = _crashes(machine)
    if crashes and machine.state != "started":
        return f"crashed after it was well: it is {machine.state}{_because(machine, crashes)}"
    if machine.state in GONE:
        return f"is {machine.state}{_because(machine, crashes)}"
    as_it_was = last_start(machine, version) == well_start
    if crashes and not as_it_was and (well_start is not None or len(crashes) >= _CRASHES):
        return f"crashed after it was well{_because(machine, crashes)}"
    return ""


def configured_checks(config: dict[str, Any]) -> int:
    """Return how many checks a machine config has that are waited for."""
    services = config.get("services") or []
    of_services = sum(len(one.get("checks") or []) for one in services)
    containers = config.get("containers") or []
    of_containers = [check for one in containers for check in one.get("healthchecks") or []]
    readiness = [check for check in of_containers if check.get("kind") == "readiness"]
    return len(config.get("checks") or {}) + of_services + len(readiness)


def last_start(machine: Seen, version: str) -> str:
    """Return what changes with every start of a machine's process."""
    started = next((one for one in machine.events if one.type == "start"), None)
    return f"{version}/{started.id if started else ''}"


def exit_code(machine: Seen) -> int | None:
    """Return what the last run of a machine's process ended with, `None` while there is none."""
    for event in machine.events:
        if event.type == "start":
            return None
        if event.type == "exit":
            return int(_exit(event).get("exit_code") or 0)
    return None


def _resting(machine: Seen, crashes: list[SeenEvent]) -> Verdict:
    exits = [one for one in _since_asked(machine) if _exit(one)]
    if not exits:
        return Verdict("not yet", f"is {machine.state}")
    if crashes:
        return Verdict("not well", f"is {machine.state}{_because(machine, crashes)}")
    return Verdict("well", "ran and ended with exit code 0")


def _running(machine: Seen, up_s: float) -> Verdict:
    found = Verdict("well", "is up")
    if configured_checks(machine.config):
        found = _checked(machine)
    if found.word == "well" and up_s < STEADY_S:
        return Verdict("not yet", f"is up for {up_s:.0f}s of {STEADY_S:.0f}s", steadying=True)
    return found


def _checked(machine: Seen) -> Verdict:
    passing = [one for one in machine.checks if one.status == "passing"]
    total = max(len(machine.checks), configured_checks(machine.config))
    if machine.checks and len(passing) == len(machine.checks):
        return Verdict("well", f"is up, {len(passing)} of {total} checks passing")
    failing = next((one for one in machine.checks if one.status != "passing"), None)
    output = f": {failing.name} says {_first_line(failing.output)}" if failing else ""
    return Verdict("not yet", f"is up, {len(passing)} of {total} checks passing{output}")


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f'"{lines[0][:160]}"' if lines else "nothing"


def _exit(event: SeenEvent) -> dict[str, Any]:
    request = event.request or {}
    monitor = request.get("MonitorEvent") or {}
    found = monitor.get("exit_event") or request.get("exit_event")
    return found if isinstance(found, dict) else {}


def _since_asked(machine: Seen) -> list[SeenEvent]:
    """Return the events since somebody asked the machine to run, newest first."""
    events = list(machine.events)
    for index, event in enumerate(events):
        by_policy = (event.request or {}).get("restart_count")
        if event.type in _ASKS or (event.type == "launch" and not by_policy):
            return events[:index]
    return events


def _crashes(machine: Seen) -> list[SeenEvent]:
    """Return the exits since then that nobody asked for and that were errors."""
    return [
        one
        for one in _since_asked(machine)
        if one.type == "exit"
        and not _exit(one).get("requested_stop")
        and _exit(one).get("exit_code", 0) != 0
    ]


def _restarts(machine: Seen) -> int:
    counts = [(one.request or {}).get("restart_count") for one in _since_asked(machine)]
    return max((count for count in counts if isinstance(count, int)), default=0)


def _because(machine: Seen, crashes: list[SeenEvent]) -> str:
    if not crashes:
        newest = machine.events[0] if machine.events else None
        reason = (newest.request or {}).get("message") if newest else None
        return f": {reason}" if isinstance(reason, str) and reason else ""
    newest_exit = _exit(crashes[0])
    if newest_exit.get("oom_killed"):
        return ": it ran out of memory"
    signal = newest_exit.get("guest_signal") or newest_exit.get("signal")
    if isinstance(signal, int) and signal > 0:
        return f": its process was killed by signal {signal}"
    return f": its process exited with code {newest_exit.get('exit_code')}"
