"""The framed, multiplexed byte stream between guest and shim, and between shim and agent.

A frame is `length: u32 | kind: u8 | stream: u32 | payload`, big endian; `length` counts the
payload only and is at most 65,536; of a message towards the guest, which may hold a whole run spec
with environment and files, 1,048,576. Stream 0 carries messages (JSON objects with a `type`) and
the output of the machine's main process; every other stream is one exec session, its number
chosen by the side that asked. The Rust twin is `rust/crates/wire/src/channel.rs`; both are
held together by `contracts/golden/channel.json`.

Flow control: the receiver of STDIN, and of STDOUT and STDERR on streams other than 0, grants
CREDIT (a u32 of bytes, per stream and for its data kinds together); a session starts with
`INITIAL_CREDIT` each way. Stream 0's output has no credit: the shim always drains it and
drops above the machine's log rate, saying how much.
"""

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

MAX_PAYLOAD = 65_536
MAX_MESSAGE = 1_048_576
INITIAL_CREDIT = 262_144
_HEADER = struct.Struct(">IBI")


class Kind(IntEnum):
    """What a frame carries."""

    MESSAGE = 1
    STDIN = 2
    STDOUT = 3
    STDERR = 4
    CREDIT = 5
    EOF = 6
    """The sender's data on this stream is at its end: of STDIN towards the guest."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    stream: int
    payload: bytes


class BadFrame(ValueError):
    """The peer does not speak this protocol; the connection is of no more use."""


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame.

    Raises:
        BadFrame: The payload is over `MAX_PAYLOAD`, or `MAX_MESSAGE` if it is a message.
    """
    if len(frame.payload) > (MAX_MESSAGE if frame.kind == Kind.MESSAGE else MAX_PAYLOAD):
        raise BadFrame(f"payload of {len(frame.payload)} bytes")
    return _HEADER.pack(len(frame.payload), frame.kind, frame.stream) + frame.payload


def message(body: dict[str, Any], stream: int = 0) -> bytes:
    """Return the bytes of a MESSAGE frame towards the guest."""
    return encode(Frame(Kind.MESSAGE, stream, json.dumps(body, separators=(",", ":")).encode()))


class Decoder:
    """Takes bytes as they come, gives whole frames. Does no I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame completed by these bytes.

        Raises:
            BadFrame: A length or kind outside the protocol.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            length, kind, stream = _HEADER.unpack_from(self._buffer)
            if length > MAX_PAYLOAD:
                raise BadFrame(f"payload of {length} bytes")
            if kind not in Kind.__members__.values():
                raise BadFrame(f"unknown kind {kind}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(Kind(kind), stream, payload)
