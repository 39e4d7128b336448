"""Tables that several commands show."""

from godwit.cli import times
from godwit.cli.session import Session
from godwit.client.records import Machine

STANDBY = "†"


def machines(session: Session, found: list[Machine]) -> None:
    """Show an app's machines by process group, as `status` does."""
    now = session.clock.now_ms()
    session.out.table(
        ("process", "id", "name", "version", "region", "state", "checks", "last updated"),
        [
            (
                f"{one.group()}{STANDBY if standby(one) else ''}",
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
    if any(standby(one) for one in found):
        session.out.data("")
        session.out.data(
            f"{STANDBY} stands by: it starts when the host of the machine it watches is gone"
        )


def standby(machine: Machine) -> bool:
    """Tell whether a machine waits for the loss of another one's host."""
    return bool(machine.config.get("standbys"))


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
    if machine.config.get("standbys"):
        marks.append("standby")
    if machine.cordoned:
        marks.append("cordoned")
    if machine.host_status != "ok":
        marks.append(f"host {machine.host_status}")
    return ", ".join(marks)
