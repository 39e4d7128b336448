"""Log lines, in the JSON:API form of spec/network.md §7.2."""

from datetime import UTC, datetime
from typing import Any

from godwit.api.schemas.common import Out
from godwit.control import logs
from godwit.wire import host_rpc

_NS = 1_000_000_000


class Attributes(Out):
    """One line."""

    timestamp: str
    message: str
    level: str
    instance: str
    region: str
    meta: dict[str, Any]


class Line(Out):
    """One line with its id."""

    id: str
    type: str = "log"
    attributes: Attributes


class Cursor(Out):
    """Where to go on."""

    next_token: str


class LogPage(Out):
    """Lines in order of time."""

    data: list[Line]
    meta: Cursor

    @classmethod
    def of(cls, page: logs.Page) -> "LogPage":
        """Return lines as the API shows them."""
        return cls(
            data=[_line(entry) for entry in page.lines],
            meta=Cursor(next_token=str(page.cursor) if page.cursor else ""),
        )


def _line(entry: host_rpc.LogEntry) -> Line:
    seconds, rest = divmod(entry.t, _NS)
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    provider = "app" if entry.stream in ("stdout", "stderr") else "runner"
    return Line(
        id=f"{entry.machine_id}-{entry.t}",
        attributes=Attributes(
            timestamp=f"{moment}.{rest:09d}Z",
            message=entry.message,
            level="info",
            instance=entry.machine_id,
            region=entry.region,
            meta={
                "instance": entry.machine_id,
                "region": entry.region,
                "event": {"provider": provider},
                "stream": entry.stream,
            },
        ),
    )
