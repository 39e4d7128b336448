"""What a machine's own process asks at `/.fly/api`, on its way to control, and the answer.

What its host does for it at once, its own end, is told to control as a deed.

Sent by the machine's agent, which the bus vouches for; it says which of its machines asks.
"""

import base64
import binascii
from typing import Literal

from pydantic import Field

from godwit.wire.record import Record

MOST_BODY_BYTES = 131_072
"""Of a request. With its head and in base64 it has to fit the bus's 512 KiB."""
MOST_ANSWER_BYTES = 262_144
VERB = "guest.request"
DEED = "guest.deed"

Headers = tuple[tuple[str, str], ...]
OwnVerb = Literal["suspend", "stop"]
"""What a machine's host does for it without asking control."""


class GuestRequest(Record):
    """One HTTP request; without a token in its headers it is the machine that asks.

    Attributes:
        target: Path and query, as sent.
        headers: But for those of the connection.
    """

    v: int = 1
    machine_id: str
    method: str
    target: str
    headers: Headers = ()
    body_base64: str = ""

    @property
    def body(self) -> bytes:
        """Return the body.

        Raises:
            ValueError: It is not base64.
        """
        return _decoded(self.body_base64)

    def header(self, wanted: str) -> str | None:
        """Return the first header of that name, in lower case."""
        return next((value for name, value in self.headers if name.lower() == wanted), None)


class GuestAnswer(Record):
    """The HTTP answer."""

    v: int = 1
    status: int
    headers: Headers = ()
    body_base64: str = ""

    @property
    def body(self) -> bytes:
        """Return the body.

        Raises:
            ValueError: It is not base64.
        """
        return _decoded(self.body_base64)


class Deed(Record):
    """What a machine did to itself, told by its host afterwards: control may have been away.

    Attributes:
        id: A ULID; the audit row is named by it, so that one told twice is one row.
        at_ms: When, by the host's clock.
        detail: `signal` and `timeout_ms` of a stop that says them.
    """

    v: int = 1
    id: str = Field(pattern="^[0-9A-HJKMNP-TV-Z]{26}$")
    machine_id: str
    verb: OwnVerb
    at_ms: int = Field(ge=0)
    detail: dict[str, str | int] = {}


def request(
    machine_id: str, method: str, target: str, headers: Headers, body: bytes
) -> GuestRequest:
    """Return a request with that body."""
    return GuestRequest(
        machine_id=machine_id,
        method=method,
        target=target,
        headers=headers,
        body_base64=base64.b64encode(body).decode(),
    )


def answer(status: int, headers: Headers, body: bytes) -> GuestAnswer:
    """Return an answer with that body."""
    return GuestAnswer(status=status, headers=headers, body_base64=base64.b64encode(body).decode())


def said(status: int, json: str) -> GuestAnswer:
    """Return an answer of JSON."""
    return answer(status, (("content-type", "application/json"),), json.encode())


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a body is not base64") from error
