"""`godwit control move-database`: has the running control carry its rows to another database.

Writes the request that control reads at its start, ends control, and waits for what the next one
has to say; the supervisor starts it again. Machines and their traffic are not touched.
"""

import contextlib
import http.client
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from godwit.base import errors, ids
from godwit.base.settings import Settings, read_resolved
from godwit.control import residence
from godwit.host import membership, running
from godwit.host.identity import HostIdentity

_PAUSE_S = 0.05
_ASK_S = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class Moved:
    """What was done.

    Attributes:
        place: Where the platform's rows are now.
        rows: How many rows each table has.
        away_s: How long the API did not answer.
    """

    place: str
    rows: dict[str, int]
    away_s: float


def move(settings: Settings, to: str, *, timeout_s: float, told: Callable[[str], None]) -> Moved:
    """Move the database of the Godwit that runs here.

    Args:
        settings: Where it runs.
        to: A postgresql:// URL, or `sqlite` for the file in the data directory.
        timeout_s: How long to wait for the end; the move goes on after it.
        told: Called with one sentence for each stage.

    Raises:
        Failure: Nothing runs here, the move did not work and nothing was changed, or it is not
            at its end in time.
    """
    place = residence.place(to)
    run = settings.paths.run
    control = running.read(run / "pids" / "control.json")
    if running.read(run / "host.json") is None or control is None:
        raise errors.Failure(
            "failed_precondition", "control does not run here", hint="start it: `godwit up -d`"
        )
    settings = read_resolved(run / "settings.json")
    _demand_alone(settings)
    files = residence.Files(settings.paths.data / "control")
    if files.request.exists():
        raise errors.Failure("conflict", "another move is under way", hint=str(files.request))
    request = residence.Request(id=ids.ulid(), to=to)
    residence.write(files.request, request)
    told(f"moving to: {place}")
    began = time.monotonic()
    control.signal(signal.SIGTERM)
    outcome = _await(lambda: _answer(files, request), began + timeout_s)
    if outcome is None:
        raise errors.Failure(
            "deadline_exceeded",
            f"the move is not at its end after {timeout_s:g} s; it goes on without this command",
            hint=f"{files.outcome} will tell, and control.log in the data directory's log folder",
        )
    if not _await(lambda: _api_answers(settings), began + timeout_s):
        raise errors.Failure("unavailable", "control does not answer after the move")
    if not outcome.moved:
        raise errors.Failure(
            "failed_precondition",
            f"nothing was moved, the platform goes on with its database: {outcome.sentence}",
            hint=outcome.hint,
        )
    return Moved(outcome.place, outcome.rows, time.monotonic() - began)


def _demand_alone(settings: Settings) -> None:
    """Return if no other host runs control: it would go on with the database that is left."""
    data = settings.paths.data
    path = data / "host.json"
    who = HostIdentity.model_validate_json(path.read_text()).host_id if path.exists() else ""
    others = sorted(
        one.host_id
        for one in membership.read(data).values()
        if one.host_id != who and one.state != "removed" and "control" in one.roles
    )
    if others:
        raise errors.Failure(
            "failed_precondition",
            f"control runs on other hosts too, which would be left behind: {', '.join(others)}",
            hint="take them out (`godwit host remove`), move, and let them join again"
            " with --control",
        )


def _await(attempt: Callable[[], T], deadline: float) -> T:
    """Return the attempt's first true result, or its last one at the deadline."""
    while not (found := attempt()) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return found


def _answer(files: residence.Files, request: residence.Request) -> residence.Outcome | None:
    outcome = residence.read(files.outcome, residence.Outcome)
    return outcome if outcome is not None and outcome.id == request.id else None


def _api_answers(settings: Settings) -> bool:
    host, _, port = settings.listen.api.rpartition(":")
    with contextlib.suppress(OSError, http.client.HTTPException):
        asked = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_ASK_S)
        with contextlib.closing(asked):
            asked.request("GET", "/x/v1/health")
            return asked.getresponse().status == http.client.OK
    return False
