"""Terminals in machines: `/x/v1/apps/{app}/machines/{id}/terminals`."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from godwit.client.machines import path
from godwit.client.transport import Transport

_READ_S = 25
_MARGIN_S = 15.0
MOST_AT_ONCE = 16_384
"""Bytes of input in one request."""


@dataclass(frozen=True)
class Window:
    """The size of a terminal, in characters."""

    rows: int
    cols: int

    def body(self) -> dict[str, int]:
        """Return what the API is told."""
        return {"rows": self.rows, "cols": self.cols}


@dataclass(frozen=True)
class Output:
    """What came.

    Attributes:
        position: What to ask for next.
        pieces: `stdout` or `stderr`, and bytes.
        exit_code: How the command ended, once it did and all its output was told.
    """

    position: int
    pieces: tuple[tuple[str, bytes], ...]
    exit_code: int | None


class Terminals:
    """Terminals, one at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def open(
        self,
        app: str,
        machine_id: str,
        command: Sequence[str],
        *,
        user: str = "",
        term: str = "",
        window: Window | None = None,
        container: str = "",
    ) -> str:
        """Start a command and return its terminal's id."""
        body: dict[str, Any] = {"command": list(command), "user": user, "term": term}
        if window is not None:
            body["window"] = window.body()
        if container:
            body["container"] = container
        answer = await self._transport.call("POST", _path(app, machine_id), body=body)
        return str(answer["id"])

    async def read(self, app: str, machine_id: str, terminal_id: str, *, after: int) -> Output:
        """Return output past a position; an answer without any means that there was none yet."""
        answer = await self._transport.get(
            _path(app, machine_id, terminal_id),
            query={"after": after, "wait_s": _READ_S},
            timeout_s=_READ_S + _MARGIN_S,
        )
        pieces = tuple(
            (str(one["stream"]), base64.b64decode(one["data_base64"])) for one in answer["pieces"]
        )
        ended = answer["exit_code"] if answer["ended"] else None
        return Output(int(answer["position"]), pieces, ended)

    async def write(
        self,
        app: str,
        machine_id: str,
        terminal_id: str,
        *,
        at: int,
        data: bytes = b"",
        eof: bool = False,
        window: Window | None = None,
    ) -> int:
        """Type something at a position; return the position after it."""
        body: dict[str, Any] = {"at": at, "data_base64": base64.b64encode(data).decode()}
        if eof:
            body["eof"] = True
        if window is not None:
            body["window"] = window.body()
        place = _path(app, machine_id, f"{terminal_id}/input")
        answer = await self._transport.call("POST", place, body=body)
        return int(answer["position"])

    async def close(self, app: str, machine_id: str, terminal_id: str) -> None:
        """End a terminal and its command."""
        await self._transport.call("DELETE", _path(app, machine_id, terminal_id))


def _path(app: str, machine_id: str, rest: str = "") -> str:
    return f"/x{path(app, machine_id, 'terminals')}/{rest}".rstrip("/")
