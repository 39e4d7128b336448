"""The entries of a machine's history (spec/machines.md §3.4): which there are, and when."""

from collections.abc import Mapping
from typing import Any

from godwit.agent.machines import lifecycle, records, store
from godwit.durable.journal import Outcome, Run

_ASKED_FOR: frozenset[lifecycle.Kind] = frozenset({"stop", "restart", "update", "replace"})


def make(
    event_ids: store.EventIds,
    machine: records.Machine,
    run: Run | None,
    type_: str,
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
    if kind not in _ASKED_FOR or not given.get("requested"):
        return ()
    shown = lifecycle.COURSES[kind].shown or ""
    name = "update" if kind == "replace" else kind
    source = str(given.get("source") or "user")
    return (make(event_ids, machine, None, name, shown, source=source),)


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
    if outcome == "done" and run.kind == "destroy":
        return (make(event_ids, machine, run, "destroy", machine.state),)
    if machine.state == "failed" and run.kind != "clear":
        reason = {"reason": machine.sentence}
        return (make(event_ids, machine, run, "fail", machine.state, request=reason),)
    return ()
