"""Whether a machine is well: a pure judgement over what the API says of it.

Rules: spec/config-cli.md §3.4. Checks decide where there are any; without them a machine has
to stay up for a while. A machine that exits by itself with an error, twice, is not well.
"""

from dataclasses import dataclass
from typing import Any, Literal

from godwit.client.records import Event, Machine

STEADY_S = 10.0
"""How long a machine without checks has to stay up."""
_CRASHES = 2
_GONE = frozenset({"failed", "launch_failed", "destroyed", "destroying", "replaced"})
_RESTING = frozenset({"stopped", "suspended"})


@dataclass(frozen=True)
class Verdict:
    """What is thought of a machine, in a word and a sentence."""

    word: Literal["well", "not yet", "not well"]
    sentence: str


def judge(machine: Machine, *, up_s: float, smoke: bool = True) -> Verdict:
    """Return what is thought of a machine that shall run.

    Args:
        machine: As the API shows it now.
        up_s: For how long it has been seen up without a break.
        smoke: Whether a machine without checks has to stay up for a while.
    """
    crashes = _crashes(machine.events)
    if machine.state in _GONE:
        return Verdict("not well", f"is {machine.state}{_because(machine, crashes)}")
    if machine.state in _RESTING:
        return _resting(machine, crashes)
    if len(crashes) >= _CRASHES or (crashes and _restarts(machine.events) > 1):
        return Verdict("not well", f"keeps crashing{_because(machine, crashes)}")
    if machine.state != "started":
        return Verdict("not yet", f"is {machine.state}")
    return _running(machine, up_s if smoke else STEADY_S)


def configured_checks(config: dict[str, Any]) -> int:
    """Return how many checks a machine config has."""
    services = config.get("services") or []
    return len(config.get("checks") or {}) + sum(len(one.get("checks") or []) for one in services)


def last_start(machine: Machine) -> str:
    """Return what changes with every start of a machine's process."""
    started = next((one for one in machine.events if one.type == "start"), None)
    return f"{machine.version}/{started.id if started else ''}"


def _resting(machine: Machine, crashes: list[Event]) -> Verdict:
    exits = [one for one in _since_launch(machine.events) if one.exit()]
    if not exits:
        return Verdict("not yet", f"is {machine.state}")
    if crashes:
        return Verdict("not well", f"is {machine.state}{_because(machine, crashes)}")
    return Verdict("well", "ran and ended with exit code 0")


def _running(machine: Machine, up_s: float) -> Verdict:
    if configured_checks(machine.config):
        return _checked(machine)
    if up_s < STEADY_S:
        return Verdict("not yet", f"is up for {up_s:.0f}s of {STEADY_S:.0f}s")
    return Verdict("well", "is up")


def _checked(machine: Machine) -> Verdict:
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


def _since_launch(events: list[Event]) -> list[Event]:
    """Return the events of the present run, newest first."""
    for index, event in enumerate(events):
        if event.type == "launch":
            return events[:index]
    return events


def _crashes(events: list[Event]) -> list[Event]:
    """Return the exits of the present run that nobody asked for and that were errors."""
    return [
        one
        for one in _since_launch(events)
        if one.type == "exit"
        and not one.exit().get("requested_stop")
        and one.exit().get("exit_code", 0) != 0
    ]


def _restarts(events: list[Event]) -> int:
    counts = [(one.request or {}).get("restart_count") for one in _since_launch(events)]
    return max((count for count in counts if isinstance(count, int)), default=0)


def _because(machine: Machine, crashes: list[Event]) -> str:
    if not crashes:
        newest = machine.events[0] if machine.events else None
        reason = (newest.request or {}).get("message") if newest else None
        return f": {reason}" if isinstance(reason, str) and reason else ""
    newest_exit = crashes[0].exit()
    if newest_exit.get("oom_killed"):
        return ": it ran out of memory"
    signal = newest_exit.get("guest_signal") or newest_exit.get("signal")
    if isinstance(signal, int) and signal > 0:
        return f": its process was killed by signal {signal}"
    return f": its process exited with code {newest_exit.get('exit_code')}"
