"""A run as people see it: where it is, what it says, what it did. Pure."""

from dataclasses import dataclass
from typing import Literal

from godwit.control.deploys.journal import TURNED
from godwit.control.deploys.service import Deploy
from godwit.control.records import RunEntry

Status = Literal["running", "complete", "failed", "cancelled"]


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    number: int
    at_ms: int
    level: str
    group: str
    machine_id: str
    message: str


def status(deploy: Deploy) -> Status:
    """Return how a deploy stands."""
    return deploy.row.outcome or "running"


def step(deploy: Deploy) -> str:
    """Return the name of the step that is under way, empty once all is over."""
    if deploy.row.ended_at_ms is not None:
        return ""
    steps = deploy.row.steps
    if TURNED in deploy.done:
        steps = [name for name in steps if name in _BACK]
    return next((name for name in steps if name not in deploy.done), "")


_BACK = ("restore_machines", "settle_replaced", "destroy_made", "destroy_helpers")


def sentence(deploy: Deploy) -> str:
    """Return the last that was said of a deploy."""
    for entry in reversed(deploy.last):
        found = event(entry)
        if found is not None and found.level != "warning":
            about = f"{found.machine_id} " if found.machine_id else ""
            return f"{about}{found.message}".splitlines()[0]
    return ""


def events(deploy: Deploy) -> list[Event]:
    """Return what happened."""
    return [found for entry in deploy.entries if (found := event(entry)) is not None]


def event(entry: RunEntry) -> Event | None:
    """Return an entry as an event; `None` for what is only the runner's."""
    if "message" not in entry.body:
        return None
    return Event(
        number=entry.number,
        at_ms=entry.at_ms,
        level=str(entry.body.get("level", "state")),
        group=str(entry.body.get("group", "")),
        machine_id=str(entry.body.get("machine_id", "")),
        message=str(entry.body["message"]),
    )
