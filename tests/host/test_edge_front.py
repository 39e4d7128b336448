"""godwit-edge as a real process: from an accepted connection to whom it is handed on."""

import asyncio
import contextlib
import json
import socket
import ssl
import time

import pytest

from godwit.control import edge_authority
from godwit.host import edge_keys
from godwit.testing.loopback import free_port
from tests.host import rust_components as parts
from tests.host.edge_lab import curl, echo
from tests.host.front_lab import (  # noqa: F401
    CUSTOM,
    NAME,
    OWN,
    SHARED,
    FrontLab,
    certificate_of,
    connected,
    echo_lines,
    make_front,
)
from tests.host.rust_components import web_app

pytestmark = pytest.mark.host

HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: " + NAME.encode() + b"\r\n"
HEADS_CUT = 'godwit_edge_refused_connections_count{reason="http_head_timeout"}'


async def test_ports_open_and_close_as_services_come_and_go(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7001, "http")])
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, 7001)
        await front.listens(OWN, 7001)
        async with connected(OWN, 7001) as (reader, writer):
            writer.write(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            front.machine("m1", services=[front.service(7002, "http")], local_ipv4=fact.local_ipv4)
            await front.listens(OWN, 7002)
            await front.listens(OWN, 7001, wanted=False)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(OWN, 7001)
            # Closing the port has closed no connection.
            writer.write(b"GET /still HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b'"path": "/kept"')
            assert await reader.readuntil(b"HTTP/1.1 ")


async def test_a_port_that_is_taken_is_reported_and_had_later(front: FrontLab) -> None:
    with socket.create_server((SHARED, 7003)):
        front.machine("m1", services=[front.service(7003, "http"), front.service(7004, "http")])
        await front.start()
        await front.listens(SHARED, 7004)
        await front.listens(OWN, 7003)
        told = await front.ports()
        assert [one["address"] for one in told["refused"]] == [f"{SHARED}:7003"]
        assert "in use" in told["refused"][0]["reason"]
        assert (await front.metrics())["godwit_edge_ports_refused"] == 1
    await front.listens(SHARED, 7003)
    assert (await front.ports())["refused"] == []


async def test_reserved_ports_and_raw_ones_of_shared_addresses_stay_closed(
    front: FrontLab,
) -> None:
    services = [front.service(7005), front.service(7006, "http"), front.service(7007, "tls")]
    front.changes["reserved_ports"] = [7006]
    front.machine("m1", services=services)
    await front.start()
    await front.listens(OWN, 7005)
    await front.listens(SHARED, 7007)
    assert {(OWN, 7006), (SHARED, 7005), (SHARED, 7006)} & await front.open_ports() == set()


async def test_https_by_both_versions_with_a_certificate_that_is_vouched_for(
    front: FrontLab,
) -> None:
    fact = front.machine("m1", services=[front.service(7443, "tls", "http")])
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, 7443)
        for version, name in (("2", NAME), ("1.1", CUSTOM)):
            printed = await curl(
                f"--http{version}", "--cacert", str(front.root), "-w", "\n%{http_version}",
                "--connect-to", f"::{SHARED}:7443", f"https://{name}/x",
            )  # fmt: skip
            body, _, spoken = printed.decode().rpartition("\n")
            headers = {key.lower(): value for key, value in json.loads(body)["headers"]}
            assert spoken == version
            assert (headers["x-forwarded-proto"], headers["x-forwarded-ssl"]) == ("https", "on")
            assert headers["host"] == name
            assert headers["x-forwarded-for"].endswith(f", {SHARED}")


async def test_tls_ends_at_the_edge_and_bytes_go_on_with_their_ends_kept(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7444, "tls")])
    async with parts.raw_app(fact.local_ipv4, front.app_port, echo_lines):
        await front.start()
        await front.listens(SHARED, 7444)
        trusting = front.trusting
        async with connected(SHARED, 7444, ssl=trusting, server_hostname=NAME) as (reader, writer):
            assert ("DNS", "*.godwit.localhost") in certificate_of(writer)["subjectAltName"]
            writer.write(b"hello\n")
            assert await reader.readline() == b"> hello\n"
        # Without a name at the app's own address.
        trusting.check_hostname = True
        async with connected(OWN, 7444, ssl=trusting, server_hostname=OWN) as (reader, writer):
            assert ("IP Address", OWN) in certificate_of(writer)["subjectAltName"]
            writer.write(b"again\n")
            assert await reader.readline() == b"> again\n"


async def test_raw_bytes_with_half_closed_connections(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7010)])
    async with parts.raw_app(fact.local_ipv4, front.app_port, echo_lines):
        await front.start()
        await front.listens(OWN, 7010)
        async with connected(OWN, 7010) as (reader, writer):
            writer.write(b"a\nb\n")
            writer.write_eof()
            assert await reader.read() == b"> a\n> b\nover\n"
    metrics = await front.metrics()
    assert metrics['fly_edge_data_in{app="hello",org_id="org_1"}'] == 4
    assert metrics['fly_edge_data_out{app="hello",org_id="org_1"}'] == 13


async def test_an_address_by_ipv6_that_is_the_apps_own_takes_bytes_and_requests(
    front: FrontLab,
) -> None:
    services = [
        front.service(7013, "proxy_proto", proxy_version="v1"),
        front.service(7014, "http"),
    ]
    services[1]["internal_port"] = front.app_port + 1
    front.changes["addresses"] = [SHARED, OWN, "::1"]
    parts.keep_view(
        front.folder / "view.json",
        parts.app("hello", hostnames=(NAME,), addresses=(OWN, "::1")),
    )
    fact = front.machine("m1", services=services)
    async with (
        parts.raw_app(fact.local_ipv4, front.app_port, echo_lines),
        web_app(fact.local_ipv4, front.app_port + 1, echo),
    ):
        await front.start()
        for port in (7013, 7014):
            await front.listens("[::1]", port)
        async with connected("::1", 7013) as (reader, writer):
            source = writer.get_extra_info("sockname")[1]
            told = f"> PROXY TCP6 ::1 ::1 {source} 7013\r\n"
            assert await reader.readline() == told.encode()
            writer.write(b"hello\n")
            assert await reader.readline() == b"> hello\n"
        # The address says which app is meant, whatever the request says.
        async with connected("::1", 7014) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert dict(json.loads(body)["headers"])["fly-client-ip"] == "::1"


async def test_a_range_of_ports_is_open_from_end_to_end_and_no_further(front: FrontLab) -> None:
    first, last = 7021, 7024
    service = front.service(first, "proxy_proto", proxy_version="v1")
    service["ports"][0]["end_port"] = last
    fact = front.machine("m1", services=[service])
    async with parts.raw_app(fact.local_ipv4, front.app_port, echo_lines):
        await front.start()
        # Each is opened by itself.
        for port in range(first, last + 1):
            await front.listens(OWN, port)
        assert {port for address, port in await front.open_ports() if address == OWN} == set(
            range(first, last + 1)
        )
        for port in range(first, last + 1):
            async with connected(OWN, port) as (reader, _):
                # The app learns at which of them the client came.
                assert (await reader.readline()).endswith(b" %d\r\n" % port)
        for port in (first - 1, last + 1):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(OWN, port)
        # It shrinks as it grew.
        service["ports"][0]["end_port"] = first + 1
        front.machine("m1", services=[service], local_ipv4=fact.local_ipv4)
        await front.listens(OWN, last, wanted=False)
        await front.listens(OWN, first + 1)


async def test_large_streams_go_both_ways_at_once(front: FrontLab) -> None:
    size = 32 << 20

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    fact = front.machine("m1", services=[front.service(7011), front.service(7012, "tls")])
    async with parts.raw_app(fact.local_ipv4, front.app_port, mirror):
        edge = await front.start()
        for port, tls in ((7011, {}), (7012, {"ssl": front.trusting, "server_hostname": OWN})):
            await front.listens(OWN, port)
            async with connected(OWN, port, **tls) as (reader, writer):

                async def send(writer: asyncio.StreamWriter = writer) -> None:
                    for number in range(size >> 16):
                        writer.write(bytes([number % 251]) * 65_536)
                        await writer.drain()

                sending = parts.spawn(send())
                for number in range(size >> 16):
                    assert await reader.readexactly(65_536) == bytes([number % 251]) * 65_536
                await sending
        assert edge.memory_mb() < 64


async def test_a_sleeping_machine_is_started_for_bytes_and_limits_hold(front: FrontLab) -> None:
    service = front.service(7013, hard_limit=1, concurrency="connections")
    fact = front.machine("m1", services=[service], state="stopped")

    async def wake(machine_id: str) -> None:
        front.agent.say(front.agent.machines[machine_id].model_copy(update={"state": "started"}))

    front.agent.on_wake = wake
    async with parts.raw_app(fact.local_ipv4, front.app_port, echo_lines):
        await front.start()
        await front.listens(OWN, 7013)
        async with (
            connected(OWN, 7013) as (reader, writer),
            connected(OWN, 7013) as (held, second),
        ):
            second.write(b"second\n")
            writer.write(b"first\n")
            first, other = parts.spawn(reader.readline()), parts.spawn(held.readline())
            done, _ = await asyncio.wait({first, other}, return_when=asyncio.FIRST_COMPLETED)
            assert front.agent.wakes == ["m1"]
            assert len(done) == 1
            (writer if first in done else second).close()
            assert {await first, await other} == {b"> first\n", b"> second\n"}


async def test_a_connection_that_no_machine_takes_is_closed_and_counted(front: FrontLab) -> None:
    front.limits = front.limits.model_copy(update={"reach_ms": 300, "connect_ms": 200})
    front.machine("m1", services=[front.service(7014)])
    await front.start()
    await front.listens(OWN, 7014)
    async with connected(OWN, 7014) as (reader, _):
        assert await reader.read() == b""
    await front.refused("PC01")


async def test_plain_requests_are_sent_to_https(front: FrontLab) -> None:
    services = [
        front.service(80, "http", force_https=True), front.service(443, "tls", "http"),
    ]  # fmt: skip
    fact = front.machine("m1", services=services)
    secure = free_port()
    front.changes["listeners"] = [
        {"address": f"127.0.0.1:{front.port}", "port": 80},
        {"address": f"127.0.0.1:{secure}", "port": 443},
    ]
    async with web_app(fact.local_ipv4, front.app_port, echo) as app:
        await front.start()
        await front.listens(SHARED, 80)
        for address, port, to in ((SHARED, 80, ""), ("127.0.0.1", front.port, f":{secure}")):
            printed = await curl("-o", "/dev/null", "-w", "%{http_code} %{redirect_url}",
                "--connect-to", f"::{address}:{port}", f"http://{NAME}/a?b=c")  # fmt: skip
            assert printed.decode() == f"301 https://{NAME}{to}/a?b=c"
        assert app.requests == []


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("handlers", [("proxy_proto",), ("tls", "proxy_proto")])
async def test_an_app_learns_by_proxy_who_connected(
    front: FrontLab, version: str, handlers: tuple[str, ...]
) -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = bytearray()
        while not got.endswith(b"hello\n"):
            got += await reader.read(1000)
        writer.write(got.hex().encode() + b"\n")

    service = front.service(7020, *handlers, proxy_version=version)
    fact = front.machine("m1", services=[service])
    tls = {"ssl": front.trusting, "server_hostname": NAME} if "tls" in handlers else {}
    async with parts.raw_app(fact.local_ipv4, front.app_port, tell):
        await front.start()
        await front.listens(OWN, 7020)
        async with connected(OWN, 7020, **tls) as (reader, writer):
            host, port = writer.get_extra_info("sockname")[:2]
            writer.write(b"hello\n")
            got = bytes.fromhex((await reader.readline()).decode())
    if version == "v1":
        assert got == f"PROXY TCP4 {host} {OWN} {port} 7020\r\nhello\n".encode()
    else:
        addresses = socket.inet_aton(host) + socket.inet_aton(OWN)
        ports = port.to_bytes(2, "big") + (7020).to_bytes(2, "big")
        signature = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
        assert got == signature + addresses + ports + b"hello\n"


async def test_a_trusted_proxy_says_who_connected_where(front: FrontLab) -> None:
    services = [front.service(7021, "http"), front.service(7022, "tls", "http")]
    fact = front.machine("m1", services=services)
    front.changes["proxies"] = ["127.0.0.0/8"]
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, 7022)
        # As curl does it: to the app's own address by way of the shared one.
        header = f"PROXY TCP4 203.0.113.9 {OWN} 4711 7021\r\n".encode()
        for piece in (len(header), 7):
            async with connected(SHARED, 7021) as (reader, writer):
                writer.write(header[:piece])
                await writer.drain()
                await asyncio.sleep(0.05)
                writer.write(header[piece:] + b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
                told = await reader.readuntil(b"}")
                assert b'["fly-client-ip", "203.0.113.9"]' in told
        printed = await curl("--haproxy-protocol", "--cacert", str(front.root),
            "--connect-to", f"::{SHARED}:7022", f"https://{NAME}/")  # fmt: skip
        assert json.loads(printed)["method"] == "GET"
        async with connected(SHARED, 7021) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await front.refused("proxy_header")


@pytest.mark.parametrize(
    ("address", "name", "reason"),
    [
        (SHARED, "nobody.example", "no_app"),
        (SHARED, None, "nameless"),
        (OWN, "nobody.example", "no_certificate"),
        (SHARED, "other.godwit.localhost", "no_service"),
    ],
)
async def test_a_handshake_that_leads_nowhere_is_refused_with_its_reason(
    front: FrontLab, address: str, name: str | None, reason: str
) -> None:
    front.machine("m1", services=[front.service(7030, "tls", "http")])
    await front.start()
    await front.listens(address, 7030)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(address, 7030, ssl=context, server_hostname=name or "")
    await front.refused(reason)


async def test_options_of_tls_are_kept(front: FrontLab) -> None:
    old = {"versions": ["TLSv1.2"], "alpn": ["h2"], "default_self_signed": True}
    fact = front.machine(
        "m1", services=[front.service(7031, "tls", "http", tls_options=old)]
    )  # fmt: skip
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(OWN, 7031)
        context = front.trusting
        context.set_alpn_protocols(["h2", "http/1.1"])
        async with connected(OWN, 7031, ssl=context, server_hostname=NAME) as (_, writer):
            seen = writer.get_extra_info("ssl_object")
            assert (seen.version(), seen.selected_alpn_protocol()) == ("TLSv1.2", "h2")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(OWN, 7031, ssl=context, server_hostname=NAME)
        await front.refused("handshake")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with connected(OWN, 7031, ssl=context, server_hostname="nobody.example"):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                OWN, 7031, ssl=front.trusting, server_hostname="nobody.example"
            )


async def test_a_renewed_authority_is_used_without_a_restart(front: FrontLab) -> None:
    keys, tls = front.root.parent, {"ssl": front.trusting, "server_hostname": NAME}
    front.machine("m1", services=[front.service(7451, "tls", "http")])
    edge = await front.start()
    await front.listens(SHARED, 7451)

    async def issuer() -> str:
        async with connected(SHARED, 7451, **tls) as (_, writer):
            names = [pair for part in certificate_of(writer)["issuer"] for pair in part]
        return str(dict(names)["commonName"])

    former = await issuer()
    whole = (keys / "edge.crt").read_text()
    (keys / "edge.crt").write_text(whole[: len(whole) // 2])
    async with asyncio.timeout(parts.PATIENCE_S):
        while "the renewed authority is not used" not in edge.log.read_text():
            assert await issuer() == former
    now_ms = time.time_ns() // 1_000_000
    authority = edge_authority.ensure(keys, now_ms)
    public = edge_keys.public_key(keys.parent)
    edge_keys.keep(keys.parent, authority.vouch(public, "renewed", now_ms))
    async with asyncio.timeout(parts.PATIENCE_S):
        while await issuer() == former:
            await asyncio.sleep(0.05)
    assert await issuer() == "Godwit edge renewed"


async def heads(front: FrontLab, own_s: int) -> parts.WebApp:
    """Serve an app whose port lets a client take so long for a head, by TCP and by TLS."""
    options = {"http_options": {"headers_read_timeout": own_s}}
    services = [front.service(7030, "http", **options)]
    services.append(front.service(7031, "tls", "http", **options))
    fact = front.machine("m1", services=services)
    app = parts.WebApp(fact.local_ipv4, front.app_port, echo)
    await app.start()
    await front.start()
    await front.listens(SHARED, 7031)
    await front.listens(OWN, 7030)
    return app


async def test_an_app_that_gives_clients_longer_has_them_at_its_own_address_and_by_tls(
    front: FrontLab,
) -> None:
    front.limits = front.limits.model_copy(update={"header_ms": 1_000})
    app = await heads(front, own_s=300)
    tls = {"ssl": front.trusting, "server_hostname": NAME}
    async with (
        connected(OWN, 7030) as own,
        connected(OWN, 7030) as silent,
        connected(SHARED, 7031, **tls) as secure,
        connected(SHARED, 7030) as shared,
    ):
        for _, writer in (own, secure, shared):
            writer.write(HALF_A_HEAD)
        # Where the head says which app is meant, only the edge's own time can count.
        assert await shared[0].read() == b""
        await front.refused("http_head_timeout")
        silent[1].write(HALF_A_HEAD)
        for reader, writer in (own, silent, secure):
            writer.write(b"\r\n")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        assert (await front.metrics())[HEADS_CUT] == 1
    await app.stop()


async def test_an_app_that_gives_clients_less_has_them_cut(front: FrontLab) -> None:
    front.limits = front.limits.model_copy(update={"header_ms": 600_000})
    app = await heads(front, own_s=1)
    async with connected(OWN, 7030) as half, connected(OWN, 7030) as silent:
        half[1].write(HALF_A_HEAD)
        for reader, _ in (half, silent):
            assert await reader.read() == b""
        await front.refused("http_head_timeout", 2)
    await app.stop()
