"""One HTTP/1.1 request from a guest, bounded, and its answer. The guest may be anybody.

A connection carries one request: so nothing of one is left for the next, and whoever waits in the
socket's queue gets a turn.
"""

import http
from collections.abc import Awaitable, Callable, Iterable

import h11

from godwit.wire import guest_api

MOST_HEAD_BYTES = 16_384
MOST_BODY_BYTES = guest_api.MOST_BODY_BYTES

Read = Callable[[], Awaitable[bytes]]
"""Returns what came next, nothing at the end."""
Write = Callable[[bytes], Awaitable[None]]

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}
)
_NO_BODY = frozenset({204, 304})


class NotHttp(Exception):
    """What came is no request that can be served.

    Attributes:
        status: What to answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Silent(Exception):
    """Nothing came at all: there is nobody to answer."""


async def read_request(machine_id: str, read: Read, write: Write) -> guest_api.GuestRequest:
    """Return the request that comes.

    Raises:
        NotHttp: It is none, or too large.
        Silent: The connection ended before anything was said.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
    first = await read()
    if not first:
        raise Silent
    parser.receive_data(first)
    head = await _event(parser, read, write)
    if not isinstance(head, h11.Request):
        raise NotHttp(400, "this is not HTTP/1.1")
    if head.http_version not in (b"1.0", b"1.1"):
        raise NotHttp(505, "HTTP/1.1 is spoken here")
    if _declared(head.headers) > MOST_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    while isinstance(event := await _event(parser, read, write), h11.Data):
        body += event.data
        if len(body) > MOST_BODY_BYTES:
            raise _too_large()
    return _request(machine_id, head, bytes(body))


def written(answer: guest_api.GuestAnswer, *, head_only: bool = False) -> bytes:
    """Return an answer's bytes; the connection ends after it."""
    body = answer.body
    try:
        reason = http.HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in _passed_on(answer.headers)]
    if answer.status not in _NO_BODY:
        lines.append(f"content-length: {len(body)}")
    lines += ["connection: close", "", ""]
    shown = b"" if head_only or answer.status in _NO_BODY else body
    return "\r\n".join(lines).encode("latin-1", "replace") + shown


async def _event(parser: h11.Connection, read: Read, write: Write) -> h11.Event:
    while True:
        try:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await write(parser.send(go_on) or b"")
                parser.receive_data(await read())
                continue
        except h11.RemoteProtocolError as error:
            raise NotHttp(error.error_status_hint, str(error)) from error
        if isinstance(event, h11.Event):
            return event
        raise NotHttp(400, "this is not HTTP/1.1")


def _request(machine_id: str, head: h11.Request, body: bytes) -> guest_api.GuestRequest:
    headers = tuple(
        (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers
    )
    return guest_api.request(
        machine_id,
        head.method.decode("ascii"),
        head.target.decode("ascii"),
        tuple(_passed_on(headers)),
        body,
    )


def _passed_on(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Return headers but for those that are about one connection."""
    return ((name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP)


def _declared(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def _too_large() -> NotHttp:
    return NotHttp(413, f"the body is over {MOST_BODY_BYTES} bytes")
