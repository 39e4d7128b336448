"""Tables that several commands show."""

from godwit.cli import times
from godwit.cli.session import Session
from godwit.client.records import Machine


def machines(session: Session, found: list[Machine]) -> None:
    """Show an app's machines by process group, as `status` does."""
    now = session.clock.now_ms()
    session.out.table(
        ("process", "id", "name", "version", "region", "state", "checks", "last updated"),
        [
            (
                one.group(),
                one.id,
                one.name,
                release_of(one) or "",
                one.region,
                _state(one),
                checks_of(one),
                times.ago(one.updated_at, now),
            )
            for one in found
        ],
    )


def checks_of(machine: Machine) -> str:
    """Return how many checks pass: `2 total, 1 passing`."""
    if not machine.checks:
        return ""
    passing = sum(one.status == "passing" for one in machine.checks)
    return f"{len(machine.checks)} total, {passing} passing"


def release_of(machine: Machine) -> int:
    """Return the number of the release a machine runs, 0 when there is none."""
    number = machine.metadata().get("fly_release_version", "")
    return int(number) if number.isdecimal() else 0


def _state(machine: Machine) -> str:
    marks = [machine.state]
    if machine.cordoned:
        marks.append("cordoned")
    if machine.host_status != "ok":
        marks.append(f"host {machine.host_status}")
    return ", ".join(marks)
