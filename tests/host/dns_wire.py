"""Just enough of DNS on the wire to ask godwit-dns and to play a resolver outside."""

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address

A, SOA, TXT, AAAA, OPT, ANY = 1, 6, 16, 28, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
PATIENCE_S = 60.0
"""How long an answer that must come may take."""
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080


def encode_name(name: str) -> bytes:
    """Return a name on the wire."""
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(
    name: str, kind: int = AAAA, *, edns: int = 0, dnssec: bool = False, flags: int = RD
) -> bytes:
    """Return a query; `edns` is the size of a UDP response that is taken."""
    head = struct.pack(">6H", secrets.randbits(16), flags, 1, 0, 0, 1 if edns else 0)
    question = encode_name(name) + struct.pack(">2H", kind, 1)
    opt = struct.pack(">BHHIH", 0, OPT, edns, 0x8000 if dnssec else 0, 0) if edns else b""
    return head + question + opt


def record(name: str, kind: int, ttl: int, data: bytes) -> bytes:
    """Return a record on the wire."""
    return encode_name(name) + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def soa(zone: str, ttl: int, minimum: int) -> bytes:
    """Return the record that says how long a name may be believed not to exist."""
    data = encode_name("ns." + zone) * 2 + struct.pack(">5I", 1, 1, 1, 1, minimum)
    return record(zone, SOA, ttl, data)


@dataclass
class Message:
    """A response, read."""

    id: int
    flags: int
    question: bytes
    answers: list[tuple[int, int, bytes]]
    authorities: list[tuple[int, int, bytes]]

    @property
    def code(self) -> int:
        return self.flags & 15

    @property
    def addresses(self) -> list[str]:
        return [str(IPv6Address(data)) for kind, _, data in self.answers if kind == AAAA]

    @property
    def text(self) -> str:
        """The pieces of the first text, joined."""
        data, text = next(data for kind, _, data in self.answers if kind == TXT), b""
        while data:
            text, data = text + data[1 : 1 + data[0]], data[1 + data[0] :]
        return text.decode()


def read(data: bytes) -> Message:
    """Read a message."""
    number, flags, questions, *counts = struct.unpack_from(">6H", data)
    at = 12
    for _ in range(questions):
        at = _skip_name(data, at) + 4
    question = data[12:at]
    sections: list[list[tuple[int, int, bytes]]] = []
    for count in counts:
        sections.append([])
        for _ in range(count):
            at = _skip_name(data, at)
            kind, _, ttl, length = struct.unpack_from(">HHIH", data, at)
            sections[-1].append((kind, ttl, data[at + 10 : at + 10 + length]))
            at += 10 + length
    return Message(number, flags, question, sections[0], sections[1])


def _skip_name(data: bytes, at: int) -> int:
    while data[at]:
        if data[at] & 0xC0:
            return at + 2
        at += data[at] + 1
    return at + 1


class Asker:
    """A guest that asks from one address; only answers of the asked server count."""

    def __init__(self, source: str, server: str = "fdaa::3", port: int = 53) -> None:
        self._source, self._server = source, (server, port)
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((source, 0))
        self.socket.connect(self._server)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    async def raw(self, data: bytes, deadline_s: float = PATIENCE_S) -> bytes:
        """Send bytes and return what comes back."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(deadline_s):
            await loop.sock_sendall(self.socket, data)
            return await loop.sock_recv(self.socket, 65_535)

    async def ask(
        self, name: str, kind: int = AAAA, deadline_s: float = PATIENCE_S, **how: object
    ) -> Message:
        """Ask over UDP."""
        asked = query(name, kind, **how)  # type: ignore[arg-type]
        answer = read(await self.raw(asked, deadline_s))
        assert answer.id == int.from_bytes(asked[:2])
        assert answer.flags & QR
        return answer

    async def ask_again(self, name: str, every_s: float = 1.0) -> Message:
        """Ask over UDP as a guest's resolver does: again when nothing has come for so long."""
        loop, asked = asyncio.get_running_loop(), query(name)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await loop.sock_sendall(self.socket, asked)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_s):
                        # An answer to an earlier question may come late.
                        while (data := await loop.sock_recv(self.socket, 65_535))[:2] != asked[:2]:
                            pass
                        return read(data)

    async def ask_tcp(self, *names: str, kind: int = AAAA) -> list[Message]:
        """Ask for names on one connection, all at once."""
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                *self._server, local_addr=(self._source, 0)
            )
            for name in names:
                asked = query(name, kind)
                writer.write(len(asked).to_bytes(2) + asked)
            got = []
            for _ in names:
                length = int.from_bytes(await reader.readexactly(2))
                got.append(read(await reader.readexactly(length)))
            writer.close()
        return got


Answering = Callable[[bytes, bool], list[bytes]]


def reply(
    asked: bytes,
    *answers: bytes,
    code: int = 0,
    authorities: tuple[bytes, ...] = (),
    flags: int = 0,
) -> bytes:
    """Return a response to a query."""
    question = read(asked[:12] + asked[12:]).question
    head = struct.pack(
        ">6H", int.from_bytes(asked[:2]), QR | RD | RA | flags | code, 1, len(answers),
        len(authorities), 0,
    )  # fmt: skip
    return head + question + b"".join(answers) + b"".join(authorities)


@dataclass
class FakeResolver:
    """A resolver outside: `answering(query, over_tcp)` gives the messages it sends."""

    answering: Answering
    port: int = 0
    asked: list[tuple[bytes, bool]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    _transport: asyncio.DatagramTransport | None = None
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on UDP and TCP of one port of loopback."""
        resolver = self

        class Datagrams(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
                resolver.asked.append((data, False))
                resolver.sources.append(source[1])
                assert resolver._transport is not None
                for message in resolver.answering(data, False):
                    resolver._transport.sendto(message, source)

        loop = asyncio.get_running_loop()
        address = ("127.0.0.1", self.port)
        self._transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=address)
        self.port = self._transport.get_extra_info("sockname")[1]
        self._server = await asyncio.start_server(self._stream, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2))
        data = await reader.readexactly(length)
        self.asked.append((data, True))
        for message in self.answering(data, True):
            writer.write(len(message).to_bytes(2) + message)
        await writer.drain()
        writer.close()
