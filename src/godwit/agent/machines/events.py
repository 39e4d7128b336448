"""The entries of a machine's history (spec/machines.md §3.4): which there are, and when."""

from collections.abc import Mapping
from typing import Any, Literal

from godwit.agent.machines import lifecycle, records, store
from godwit.durable.journal import Outcome, Run

Type = Literal[
    "launch",
    "start",
    "exit",
    "stop",
    "restart",
    "update",
    "suspend",
    "resume",
    "fail",
    "destroy",
    "schedule",
    "cordon",
    "uncordon",
]
MEANINGS: dict[Type, str] = {
    "launch": "It was taken on (`created`), is ready for its first start (`stopped`), or a boot of"
    " it begins (`starting`); `restart_count` are the restarts by policy since somebody last asked"
    " for a start.",
    "start": "Its process runs: after a boot, or on from a snapshot.",
    "exit": "Its process has ended. `exit_event` says how, `oom_killed` whether for want of"
    " memory, `requested_stop` whether somebody asked for it, `restarting` whether it is brought"
    " back; `last_words` are the last lines of a crash.",
    "stop": "A stop was asked for (`stopping`); nothing ran that could exit, and it is at rest"
    " (`stopped`).",
    "restart": "A restart was asked for, by somebody or because its network was lost.",
    "update": "A new version was handed in (`replacing`), or is in place of one that did not run"
    " (`stopped`).",
    "suspend": "A suspend was asked for (`suspending`); memory and devices are saved"
    " (`suspended`).",
    "resume": "A start of a suspended machine was asked for. Without a usable snapshot a `launch`"
    " follows, which keeps the disk.",
    "fail": "An operation was given up; `reason` says why, `status` where the machine rests.",
    "destroy": "It is gone; its record and its logs stay readable for a while.",
    "schedule": "Its schedule could not start it; `reason` says why.",
    "cordon": "Edges send it no more traffic; `status` is its state then.",
    "uncordon": "Edges may send it traffic again.",
}
"""Every type of entry and what it means, for the reference."""
_OPENED_AS: dict[lifecycle.Kind, Type] = {
    "stop": "stop",
    "restart": "restart",
    "update": "update",
    "replace": "update",
    "suspend": "suspend",
    "resume": "resume",
}
"""What is told when these operations were asked for."""
_STOPPED_AS: dict[str, Type] = {
    "prepare": "launch",
    "replace": "update",
    "stop": "stop",
    "settle": "stop",
}
"""What is told when these operations end in `stopped`, where no exit says it."""


def make(
    event_ids: store.EventIds,
    machine: records.Machine,
    run: Run | None,
    type_: Type,
    status: str,
    *,
    request: dict[str, Any] | None = None,
    source: str | None = None,
) -> records.Event:
    """Return an event about a machine, unique by the run and the type."""
    event_id, now_ms = event_ids.mint()
    return records.Event(
        id=event_id,
        machine_id=machine.machine_id,
        instance_id=machine.instance_id,
        key=f"{run.id}:{type_}" if run is not None else event_id,
        type=type_,
        status=status,
        source=source or (str(run.input.get("source") or "flyd") if run is not None else "flyd"),
        timestamp=now_ms,
        request=request,
    )


def opening(
    event_ids: store.EventIds,
    machine: records.Machine,
    kind: lifecycle.Kind,
    given: Mapping[str, Any],
) -> tuple[records.Event, ...]:
    """Return the event of something having been asked for, if it is one people look for."""
    if kind not in _OPENED_AS or not given.get("requested"):
        return ()
    shown = lifecycle.COURSES[kind].shown or ""
    name = _OPENED_AS[kind]
    source = str(given.get("source") or "user")
    return (make(event_ids, machine, None, name, shown, source=source),)


def cordoning(
    event_ids: store.EventIds, machine: records.Machine, shown: str, *, cordoned: bool
) -> tuple[records.Event, ...]:
    """Return the event of edges being told otherwise; none when it is so already."""
    if machine.cordoned == cordoned:
        return ()
    type_: Type = "cordon" if cordoned else "uncordon"
    return (make(event_ids, machine, None, type_, shown, source="user"),)


def closing(
    event_ids: store.EventIds, machine: records.Machine, run: Run, outcome: Outcome
) -> tuple[records.Event, ...]:
    """Return the event of having got where an operation led.

    Args:
        event_ids: Mints its id.
        machine: As it rests now.
        run: The operation that has ended.
        outcome: How.
    """
    if outcome == "done" and machine.state == "started":
        return (make(event_ids, machine, run, "start", machine.state),)
    if outcome == "done" and run.kind == "suspend":
        return (make(event_ids, machine, run, "suspend", machine.state, source="flyd"),)
    if outcome == "done" and run.kind == "destroy":
        return (make(event_ids, machine, run, "destroy", machine.state),)
    if outcome == "done" and run.kind in _STOPPED_AS and not _took_in_exit(run):
        told = _STOPPED_AS[run.kind]
        return (make(event_ids, machine, run, told, machine.state, source="flyd"),)
    if _given_up(machine, run, outcome):
        reason = {"reason": machine.sentence}
        return (make(event_ids, machine, run, "fail", machine.state, request=reason),)
    return ()


def _took_in_exit(run: Run) -> bool:
    return "exit_code" in run.done.get("record_exit", {})


def _given_up(machine: records.Machine, run: Run, outcome: Outcome) -> bool:
    """Tell whether an operation ends without having got anywhere.

    A resume that failed ends in a clearing that says so; other clearings are nobody's business.
    """
    if run.kind == "clear":
        return bool(run.input.get("sentence"))
    return outcome != "done" or machine.state == "failed"
