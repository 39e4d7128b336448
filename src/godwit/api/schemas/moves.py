"""Moves of machines."""

from typing import Literal

from godwit.api.schemas.common import In, Out, ShortText
from godwit.base import clock
from godwit.control.records import RelocationRow


class MoveMachine(In):
    """Where to; left out, it is another host of the region it is in."""

    region: ShortText = ""


class Move(Out):
    """A machine's move.

    Attributes:
        state: `wanted` while it may still be cancelled, `leaving` once there is no way back.
        problem: Why it is still where it was; it is tried again.
        moved_to: The machine that takes its place.
    """

    machine_id: str
    region: str
    state: Literal["wanted", "leaving", "moved", "cancelled"]
    problem: str
    moved_to: str | None
    asked_at: str

    @classmethod
    def of(cls, row: RelocationRow) -> "Move":
        """Return a move as the API shows it."""
        return cls(
            machine_id=row.machine_id,
            region=row.region,
            state=row.state,
            problem=row.problem,
            moved_to=row.moved_to,
            asked_at=clock.rfc3339(row.asked_at_ms),
        )
