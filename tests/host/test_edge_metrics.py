"""godwit-edge as a real process: what it counts, by the names that dashboards know."""

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest

from tests.host import rust_components as parts
from tests.host.edge_lab import Lab, echo, make_lab  # noqa: F401
from tests.host.front_lab import (
    NAME,
    OWN,
    SHARED,
    FrontLab,
    connected,
    echo_lines,
    make_front,  # noqa: F401
)
from tests.host.rust_components import Request, raw_app, response, web_app

pytestmark = pytest.mark.host

OF_M1 = 'app="hello",org_id="org_1",region="lcl",instance="m1"'
ENDED = f"fly_app_tcp_disconnects_count{{{OF_M1}}}"


async def test_responses_of_each_machine_are_counted_by_their_status(lab: Lab) -> None:
    async def teapot(request: Request) -> bytes:
        if request.path == "/tea":
            return response(b"short and stout", "418 I'm a teapot")
        return response(b"ok")

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, teapot):
        await lab.start()
        for path in ("/", "/", "/tea"):
            await lab.get(path)
        metrics = await lab.metrics()
        made = metrics[f"fly_app_tcp_connects_count{{{OF_M1}}}"]
        assert made == metrics[f"fly_app_connect_time_seconds_count{{{OF_M1}}}"] >= 1
        # Kept for the next request, for four seconds.
        assert metrics[ENDED] < made
        await lab.counts(ENDED, made)
    for status, count in ((200, 2), (418, 1)):
        labels = f'{{{OF_M1},status="{status}"}}'
        assert metrics[f"fly_app_http_responses_count{labels}"] == count
        assert metrics[f"fly_app_http_response_time_seconds_count{labels}"] == count


async def test_a_stream_of_bytes_is_one_connection_until_it_ends(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7071)])
    async with raw_app(fact.local_ipv4, front.app_port, echo_lines):
        await front.start()
        await front.listens(OWN, 7071)
        async with connected(OWN, 7071) as (reader, writer):
            writer.write(b"hello\n")
            assert await reader.readline() == b"> hello\n"
            assert (await front.metrics())[ENDED] == 0
        await front.counts(ENDED, 1)


async def test_a_machine_that_is_gone_is_counted_no_more(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        await lab.get()
        counted = f'fly_app_http_responses_count{{{OF_M1},status="200"}}'
        assert (await lab.metrics())[counted] == 1
        lab.agent.say(fact.model_copy(update={"deleted": True}))
        async with asyncio.timeout(parts.PATIENCE_S):
            while any('instance="m1"' in name for name in await lab.metrics()):
                await asyncio.sleep(0.02)


async def test_handshakes_are_timed_and_those_that_fail_counted_by_the_apps_name(
    front: FrontLab,
) -> None:
    fact = front.machine("m1", services=[front.service(7070, "tls", "http")])
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, 7070)
        async with connected(SHARED, 7070, ssl=front.trusting, server_hostname=NAME):
            pass
        trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusts_nobody.maximum_version = ssl.TLSVersion.TLSv1_2
        for name in (NAME, "nobody.example"):
            with contextlib.suppress(ssl.SSLError):
                async with connected(SHARED, 7070, ssl=trusts_nobody, server_hostname=name):
                    pytest.fail("it trusts whom it does not know")
        await front.counts(f'fly_edge_tls_handshake_errors{{servername="{NAME}"}}', 1)
        await front.counts('fly_edge_tls_handshake_errors{servername=""}', 1)
        metrics = await front.metrics()
        assert metrics['fly_edge_tls_handshake_time_seconds_count{version="1.3"}'] == 1
        assert metrics['fly_edge_tls_handshake_time_seconds_count{version="1.2"}'] == 0


async def test_what_a_tunnel_carried_is_counted_though_it_was_broken_off(lab: Lab) -> None:
    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
        writer.write(b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n")
        while said := await reader.read(1 << 16):
            writer.write(said + said)

    fact = lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, upgrade):
        await lab.start()
        async with connected("127.0.0.1", lab.port) as (reader, writer):
            writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n".encode())
            writer.write(b"Connection: Upgrade\r\nUpgrade: chat\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.write(b"hello")
            assert await reader.readexactly(10) == b"hellohello"
            # A reset instead of an end.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await lab.counts('fly_edge_data_out{app="hello",org_id="org_1"}', 10)
        metrics = await lab.metrics()
    assert metrics['fly_edge_data_in{app="hello",org_id="org_1"}'] == 5
