"""godwit-edge as a real process: PostgreSQL clients, who ask before they speak TLS."""

import asyncio
import os
import ssl
import struct

import pytest

from tests.host import rust_components as parts
from tests.host.front_lab import NAME, OWN, SHARED, FrontLab, connected, make_front  # noqa: F401

pytestmark = pytest.mark.host

GSS = struct.pack("!II", 8, 80_877_104)
TLS = struct.pack("!II", 8, 80_877_103)
START = b"\0\x03\0\0user\0me\0database\0db\0\0"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


async def database(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a server that trusts everybody and answers every query with `42`."""
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    assert b"user\0" in await reader.readexactly(length - 4)
    idle = message(b"Z", b"I")
    version = message(b"S", b"server_version\x0015.0\0")
    writer.write(message(b"R", struct.pack("!I", 0)) + version + idle)
    while await reader.read(1) == b"Q":
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        column = struct.pack("!H", 1) + b"answer\0" + struct.pack("!IHIhih", 0, 0, 25, -1, -1, 0)
        row = struct.pack("!HI", 1, 2) + b"42"
        writer.write(
            message(b"T", column) + message(b"D", row) + message(b"C", b"SELECT 1\0") + idle
        )
    writer.close()


async def psql(front: FrontLab, address: str, port: int, mode: str) -> tuple[str, str]:
    """Return what psql prints and what it complains of."""
    process = await asyncio.create_subprocess_exec(
        "psql", "-XAtc", "select 42",
        f"host={NAME} hostaddr={address} port={port} user=me dbname=db connect_timeout=20"
        f" sslmode={mode} sslrootcert={front.root}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    async with asyncio.timeout(parts.PATIENCE_S):
        printed, complained = await process.communicate()
    return printed.decode().strip(), complained.decode()


@pytest.mark.parametrize("address", [SHARED, OWN])
async def test_psql_reaches_its_server_by_tls_and_only_so(front: FrontLab, address: str) -> None:
    fact = front.machine("m1", services=[front.service(7432, "pg_tls")])
    async with parts.raw_app(fact.local_ipv4, front.app_port, database):
        await front.start()
        await front.listens(address, 7432)
        assert await psql(front, address, 7432, "verify-full") == ("42", "")
        assert await psql(front, address, 7432, "prefer") == ("42", "")
        printed, complained = await psql(front, address, 7432, "disable")
        assert printed == ""
        assert "takes connections with TLS only" in complained
        await front.refused("postgres")


async def test_other_encryption_is_declined_once_asked_for(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7433, "pg_tls")])
    async with parts.raw_app(fact.local_ipv4, front.app_port, database):
        await front.start()
        await front.listens(OWN, 7433)
        async with connected(OWN, 7433) as (reader, writer):
            writer.write(GSS)
            assert await reader.readexactly(1) == b"N"
            writer.write(TLS)
            assert await reader.readexactly(1) == b"S"
            await writer.start_tls(front.trusting, server_hostname=NAME)
            writer.write(struct.pack("!I", len(START) + 4) + START)
            assert await reader.readexactly(1) == b"R"
        async with connected(OWN, 7433) as (reader, writer):
            writer.write(GSS * 3)
            assert await reader.read() == b"NNN"


async def test_tls_from_the_first_byte_has_to_say_that_it_is_postgresql(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7434, "pg_tls")])
    async with parts.raw_app(fact.local_ipv4, front.app_port, database):
        await front.start()
        for address in (SHARED, OWN):
            await front.listens(address, 7434)
            context = front.trusting
            context.set_alpn_protocols(["postgresql"])
            tls = {"ssl": context, "server_hostname": NAME}
            async with connected(address, 7434, **tls) as (reader, writer):
                writer.write(struct.pack("!I", len(START) + 4) + START)
                assert await reader.readexactly(1) == b"R"
        async with connected(OWN, 7434, ssl=front.trusting, server_hostname=NAME) as (reader, _):
            assert await reader.read() == b""
        await front.refused("wrong_protocol")
        other = front.trusting
        other.set_alpn_protocols(["h2"])
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(OWN, 7434, ssl=other, server_hostname=NAME)


async def test_what_comes_in_plain_text_after_the_question_is_not_taken_for_more(
    front: FrontLab,
) -> None:
    said: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        said.append(await reader.read(100))

    fact = front.machine("m1", services=[front.service(7435, "pg_tls")])
    async with parts.raw_app(fact.local_ipv4, front.app_port, hear):
        await front.start()
        await front.listens(OWN, 7435)
        async with connected(OWN, 7435) as (reader, writer):
            # A man in the middle puts words before the handshake.
            writer.write(TLS + struct.pack("!I", len(START) + 4) + START)
            assert await reader.readexactly(1) == b"S"
            assert (await reader.read())[:1] in (b"", b"\x15")
        await front.refused("handshake")
    assert said == []
