"""What happens after a machine's process ended by itself (spec/machines.md §3.5). Pure."""

from dataclasses import dataclass

from godwit.agent.machines import config, records

WINDOW_MS = 300_000
_FIRST_WAIT_MS = 1_000
_LONGEST_WAIT_MS = 60_000


@dataclass(frozen=True)
class Relaunch:
    """Start it again after a wait; `restarts` is the history with this one in it."""

    wait_ms: int
    restarts: records.Restarts


@dataclass(frozen=True)
class Settle:
    """Leave it stopped."""

    sentence: str


@dataclass(frozen=True)
class Destroy:
    """Remove it: it has auto_destroy."""


AfterExit = Relaunch | Settle | Destroy


def after_exit(
    machine: records.Machine, exit_code: int, now_ms: int, *, brief: str = ""
) -> AfterExit:
    """Say what follows an exit that nobody asked for.

    Args:
        machine: As it was while it ran.
        exit_code: Of its process; anything but 0 when the VM broke away.
        now_ms: The present.
        brief: How it ended, for people.
    """
    wanted = config.restart(machine.config)
    history = machine.restarts
    present = now_ms - history.waited_ms
    # A clock that was set back leaves restarts in the future: they are long past, too.
    recent = tuple(at for at in history.recent if abs(present - at) < WINDOW_MS)
    said = brief or f"exited with code {exit_code}"
    if wanted.policy == "no" or (wanted.policy == "on-failure" and exit_code == 0):
        return _rest(machine, said)
    if wanted.policy == "on-failure" and len(recent) >= wanted.max_retries:
        return _rest(machine, f"{said}; restarted {len(recent)} times within 5 minutes of running")
    # The exponent is bounded first: an old machine may have thousands of restarts.
    wait = min(_FIRST_WAIT_MS * 2 ** min(len(recent), 10), _LONGEST_WAIT_MS)
    waited = history.waited_ms + wait
    return Relaunch(
        wait_ms=wait,
        restarts=records.Restarts(
            count=history.count + 1,
            waited_ms=waited,
            # The time of the new start, on the clock that stands still while waiting.
            recent=(*recent, present),
        ),
    )


def _rest(machine: records.Machine, sentence: str) -> AfterExit:
    if config.auto_destroy(machine.config):
        return Destroy()
    return Settle(sentence)
