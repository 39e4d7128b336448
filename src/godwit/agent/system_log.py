"""The platform's own lines in a machine's log: starts, exits, restarts, failures.

A file beside the shim's, in the same format and order (`wire.shim.LogLine`), so that readers
merge them. Bounded: when it is full the older half goes.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from godwit.base.clock import Clock
from godwit.wire import shim

logger = logging.getLogger(__name__)

NAME = "agent.jsonl"
_MAX_BYTES = 262_144


class SystemLog:
    """Writes the platform's lines."""

    def __init__(self, directory_of: Callable[[str], Path], clock: Clock) -> None:
        self._directory_of = directory_of
        self._clock = clock
        self._newest = 0

    def write(self, machine_id: str, text: str) -> None:
        """Add a line; a log that cannot be written stops nobody."""
        self._newest = max(self._newest + 1, self._clock.now_ms() * 1_000_000)
        line = shim.LogLine(t=self._newest, s="system", m=text).model_dump_json()
        path = self._directory_of(machine_id) / NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size > _MAX_BYTES:
                    _halve(path)
            with path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            logger.warning("no log line for %s: %s", machine_id, error)


def _halve(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    scratch = path.with_suffix(".new")
    scratch.write_bytes(b"".join(lines[len(lines) // 2 :]))
    scratch.replace(path)
