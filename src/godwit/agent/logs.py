"""Reads machines' log lines from the shims' files, from the end or after a cursor; bounded.

A machine's directory holds `current.jsonl`, the older `1.jsonl` (the newest of them), `2.jsonl`
and so on, and the agent's own `agent.jsonl` (`system_log`). Within a file times grow, so a cursor
is found by bisection and the newest lines by reading backwards. Reading happens in a thread.
"""

import asyncio
import contextlib
import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from godwit.agent import system_log
from godwit.base import encoded
from godwit.wire import host_rpc, shim

MAX_LINES = 1_000
_MAX_BYTES = 262_144
_AROUND_BYTES = 320
"""Of a line in an answer without its message: whose it is."""
_BLOCK = 65_536
_WORDS = 20
_WORD_CHARACTERS = 400
_WORD_BYTES = 800
_BISECT_DOWN_TO = 65_536


@dataclass(frozen=True)
class Source:
    """One machine's log, and what tells whose it is."""

    directory: Path
    org_id: str
    app: str
    machine_id: str
    region: str


async def read(sources: Sequence[Source], after: int, limit: int) -> host_rpc.LogsAnswer:
    """Return lines of several machines in order of time.

    Args:
        sources: The machines.
        after: Nanoseconds: the next lines after that time; 0 for the newest lines.
        limit: At most so many; lines of the same nanosecond stay together.
    """
    bounded = max(1, min(limit, MAX_LINES))
    return await asyncio.to_thread(_read, sources, after, bounded)


async def last_words(directory: Path, since_ms: int) -> tuple[str, ...]:
    """Return the last lines a machine itself wrote since a Unix time: its crash report.

    At most 20 lines of 400 characters or 800 bytes; a log that cannot be read has none.
    """
    return await asyncio.to_thread(_last_words, directory, since_ms)


def _last_words(directory: Path, since_ms: int) -> tuple[str, ...]:
    try:
        lines = _lines(_files(directory), 0, _WORDS)
    except OSError:
        return ()
    texts = [line.m.strip() for line in lines if line.t >= since_ms * 1_000_000]
    shown = (encoded.beginning(text[:_WORD_CHARACTERS], _WORD_BYTES) for text in texts if text)
    return tuple(shown)


def _read(sources: Sequence[Source], after: int, limit: int) -> host_rpc.LogsAnswer:
    per_machine = [_of_machine(source, after, limit) for source in sources]
    merged = list(heapq.merge(*per_machine, key=lambda entry: entry.t))
    if after == 0:
        return host_rpc.LogsAnswer(lines=_within_bytes(merged[-limit:], newest=True))
    kept = merged[:limit]
    # A cursor is a time: what shares the last line's time must not be cut off.
    kept += [entry for entry in merged[limit:] if kept and entry.t == kept[-1].t]
    return host_rpc.LogsAnswer(lines=_within_bytes(kept, newest=False))


def _within_bytes(
    entries: Sequence[host_rpc.LogEntry], *, newest: bool
) -> tuple[host_rpc.LogEntry, ...]:
    """Keep what fits an answer, at the end that matters; at least one line."""
    kept: list[host_rpc.LogEntry] = []
    left = _MAX_BYTES
    for entry in reversed(entries) if newest else entries:
        left -= encoded.size(entry.message) + _AROUND_BYTES
        if left < 0 and kept:
            break
        kept.append(entry)
    return tuple(reversed(kept)) if newest else tuple(kept)


def _of_machine(source: Source, after: int, limit: int) -> list[host_rpc.LogEntry]:
    own = _lines([source.directory / system_log.NAME], after, limit)
    shims = _lines(_files(source.directory), after, limit)
    merged = list(heapq.merge(own, shims, key=lambda line: line.t))
    chosen = merged[-limit:] if after == 0 else merged[: 2 * limit]
    return [
        host_rpc.LogEntry(
            t=line.t,
            org_id=source.org_id,
            app=source.app,
            machine_id=source.machine_id,
            region=source.region,
            stream=line.s,
            message=line.m,
        )
        for line in chosen
    ]


def _files(directory: Path) -> list[Path]:
    """Return the shim's files, the newest first."""
    numbered: list[tuple[int, Path]] = []
    with contextlib.suppress(FileNotFoundError):
        numbered = [
            (int(path.stem), path)
            for path in directory.iterdir()
            if path.suffix == ".jsonl" and path.stem.isdecimal()
        ]
    return [directory / "current.jsonl", *(path for _, path in sorted(numbered))]


def _lines(newest_first: Iterable[Path], after: int, limit: int) -> list[shim.LogLine]:
    """Return the newest lines, or the first ones after a time, oldest first."""
    found: list[shim.LogLine] = []
    for path in newest_first:
        try:
            with path.open("rb") as file:
                part = (
                    _tail(file, limit - len(found)) if after == 0 else _after(file, after, limit)
                )
                first = _first_time(file)
        except FileNotFoundError:
            continue
        found = [*part, *found]
        enough = len(found) >= limit if after == 0 else first is not None and first <= after
        if enough:
            break
    return found[-limit:] if after == 0 else found[:limit]


def _tail(file: BinaryIO, limit: int) -> list[shim.LogLine]:
    """Return the last lines of a file, reading backwards."""
    end = file.seek(0, os.SEEK_END)
    data = b""
    # One newline more than lines: the first piece of a block may be half a line.
    while end > 0 and data.count(b"\n") <= limit and len(data) < 4 * _MAX_BYTES:
        start = max(0, end - _BLOCK)
        file.seek(start)
        data = file.read(end - start) + data
        end = start
    lines = data.split(b"\n")
    if end > 0:
        del lines[0]
    return list(_parsed(lines))[-limit:]


def _after(file: BinaryIO, after: int, limit: int) -> list[shim.LogLine]:
    """Return the first lines of a file that are later than a time."""
    low, high = 0, file.seek(0, os.SEEK_END)
    # Invariant: the first later line begins at or after `low`.
    while high - low > _BISECT_DOWN_TO:
        middle = (low + high) // 2
        at, line = _line_from(file, middle)
        if line is None or line.t > after:
            high = middle
        else:
            low = at
    file.seek(low)
    found: list[shim.LogLine] = []
    read = 0
    for raw in file:
        line = _parse(raw)
        if line is not None and line.t > after and raw.endswith(b"\n"):
            found.append(line)
            read += len(raw)
            if len(found) >= limit or read > _MAX_BYTES:
                break
    return found


def _line_from(file: BinaryIO, offset: int) -> tuple[int, shim.LogLine | None]:
    """Return the first whole readable line that begins after an offset, and where."""
    file.seek(offset)
    file.readline()
    while True:
        at = file.tell()
        raw = file.readline()
        if not raw:
            return at, None
        line = _parse(raw)
        if line is not None:
            return at, line


def _first_time(file: BinaryIO) -> int | None:
    file.seek(0)
    for raw in file:
        line = _parse(raw)
        if line is not None:
            return line.t
    return None


def _parsed(raw: Iterable[bytes]) -> Iterator[shim.LogLine]:
    for each in raw:
        line = _parse(each)
        if line is not None:
            yield line


def _parse(raw: bytes) -> shim.LogLine | None:
    """Return a line; `None` for a torn or foreign one."""
    if not raw.strip():
        return None
    try:
        return shim.LogLine.model_validate_json(raw)
    except ValidationError:
        return None
