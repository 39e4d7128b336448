"""Logging of a process: one line per event, with what it is about.

    2026-01-02T03:04:05.678Z agent INFO godwit.agent.checks: … org_id=org_… machine_id=…

A line about an organization's thing carries `org_id`, one about a network `network_id`. Whoever
begins to work for somebody (a request, a request from the bus, a machine's driver, an element of
a loop) binds them for as long as that lasts; what is called, and the tasks that are begun
meanwhile, inherit them. The Rust programs write the same line.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType

from godwit.base import clock

_BOUND: ContextVar[Mapping[str, str]] = ContextVar(
    "godwit_log_bound", default=MappingProxyType({})
)
_QUOTED = frozenset(' "=\n\r\t')


def set_up(component: str, *, level: str = "INFO") -> None:
    """Send log lines of this process to stderr, prefixed by its component."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("httpx").setLevel("WARNING")


def bind(**fields: str | None) -> None:
    """Say what the rest of this task's work is about; `None` and "" say nothing."""
    _BOUND.set({**_BOUND.get(), **_given(fields)})


@contextlib.contextmanager
def bound(**fields: str | None) -> Iterator[None]:
    """Say what the work within is about; `None` and "" say nothing."""
    token = _BOUND.set({**_BOUND.get(), **_given(fields)})
    try:
        yield
    finally:
        _BOUND.reset(token)


def fields() -> Mapping[str, str]:
    """Return what the present work is about."""
    return _BOUND.get()


class Lines(logging.Formatter):
    """Formats a record as one line, and an exception's traceback below it."""

    def __init__(self, component: str) -> None:
        super().__init__(f"%(asctime)s {component} %(levelname)s %(name)s: %(message)s")

    def formatTime(  # noqa: N802 - logging's name
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        """Return when it was, in UTC with milliseconds."""
        del datefmt
        return clock.rfc3339(int(record.created * 1000))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, with what it is about at its end."""
        line = super().formatMessage(record).replace("\n", "\n  ")
        about = {**_BOUND.get(), **getattr(record, "about", {})}
        return line + "".join(f" {name}={_plain(value)}" for name, value in about.items())


def _given(fields: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _plain(value: str) -> str:
    if not _QUOTED.isdisjoint(value):
        return '"' + value.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    return value
