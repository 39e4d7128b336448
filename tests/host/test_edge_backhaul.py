"""Requests whose machine is on another host: there and back by way of that host's edge."""

import asyncio
import contextlib
import hashlib
import json
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import HELLO, Servers, make_servers  # noqa: F401
from tests.host.edge_lab import PATIENT, QUICK, curl, echo
from tests.host.rust_components import Request, WebApp, response, web_app

pytestmark = pytest.mark.host

TAKEN = "godwit_edge_backhaul_taken_count"
BOUNCED = "godwit_edge_backhaul_bounced_count"
STRANGERS = "godwit_edge_backhaul_strangers_count"
MB = 1_000_000


async def test_a_request_goes_to_the_host_that_has_the_machine(servers: Servers) -> None:
    near, far = await servers.add("fra"), await servers.add("iad")
    fact = far.machine("m1")
    async with web_app(fact.local_ipv4, near.lab.app_port, echo):
        await servers.start()
        body = b"x" * 100_000
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            got = await client.post(near.lab.url + "/a?b=c", headers=HELLO, content=body)
    told = got.json()
    headers = dict(told["headers"])
    assert (told["method"], told["path"], told["bytes"]) == ("POST", "/a?b=c", len(body))
    assert told["digest"] == hashlib.sha256(body).hexdigest()
    assert headers["host"] == HELLO["Host"]
    assert headers["fly-client-ip"] == "127.0.0.1"
    assert headers["fly-region"] == "fra"
    assert headers["fly-forwarded-port"] == "80"
    assert headers["fly-request-id"] == got.headers["fly-request-id"]
    assert headers["via"] == "1.1 godwit"
    said = [*headers, *got.headers]
    assert not [name for name in said if name.startswith("godwit-")], said
    assert (await far.lab.metrics())[TAKEN] == 1


async def test_a_body_is_streamed_both_ways(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1")
    sent = 30 * MB

    async def answer(request: Request) -> bytes:
        digest = hashlib.sha256(request.body).hexdigest()
        return response(b"y" * sent, "200 OK", f"X-Digest: {digest}")

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(sent // MB):
            yield b"x" * MB

    async with web_app(fact.local_ipv4, near.lab.app_port, answer):
        await servers.start()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            got = await client.put(near.lab.url, headers=HELLO, content=upload())
    assert got.headers["x-digest"] == hashlib.sha256(b"x" * sent).hexdigest()
    assert len(got.content) == sent


async def test_who_reads_slowly_holds_the_app_back(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1")
    written = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"z" * 65_536)
            await writer.drain()
            written += 65_536

    async with parts.raw_app(fact.local_ipv4, near.lab.app_port, serve):
        await servers.start()
        client = httpx.AsyncClient(timeout=parts.PATIENCE_S)
        async with client, client.stream("GET", near.lab.url, headers=HELLO) as got:
            assert got.status_code == 200
            before = -1
            while written != before:
                before = written
                await asyncio.sleep(0.5)
            assert 0 < written < 40 * MB
            # Another request on the same connection is not held up by that.
            async with client.stream("GET", near.lab.url, headers=HELLO) as other:
                assert await anext(other.aiter_raw())


async def test_the_hard_limit_holds_whichever_edges_the_load_comes_from(servers: Servers) -> None:
    nears = [await servers.add() for _ in range(2)]
    far = await servers.add()
    fact = far.machine("m1", service={"soft_limit": 1, "hard_limit": 3})

    full = asyncio.Event()

    async def slow(_: Request) -> bytes:
        if app.active == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0.05)
        return response()

    async with web_app(fact.local_ipv4, far.lab.app_port, slow) as app:
        await servers.start()
        everybody = (one.get() for one in [*nears, far] for _ in range(20))
        got = await asyncio.gather(*everybody)
        assert {one.status_code for one in got} == {200}, [one.text for one in got]
    assert app.most_active == 3
    assert len(app.requests) == 60


async def test_the_soft_limit_keeps_to_its_region_and_the_hard_one_does_not(
    servers: Servers,
) -> None:
    near, beside, far = [await servers.add(region) for region in ("fra", "fra", "iad")]
    limits = {"soft_limit": 1, "hard_limit": 3}
    facts = [
        server.machine(f"m{number}", service=limits)
        for number, server in enumerate((near, beside, far))
    ]
    release = asyncio.Event()

    async def hold(request: Request) -> bytes:
        if request.path == "/hold":
            await release.wait()
        return response()

    async with contextlib.AsyncExitStack() as stack:
        apps = [
            await stack.enter_async_context(web_app(fact.local_ipv4, near.lab.app_port, hold))
            for fact in facts
        ]
        await servers.start()
        # Each host is known to be there, whatever a first attempt came to.
        for fact in facts * 10:
            assert (await near.get(headers={"fly-prefer-instance-id": fact.machine_id})).is_success
        assert all(app.requests for app in apps)
        asking = []
        busy = []
        for _ in range(8):
            asking.append(parts.spawn(near.get("/hold")))
            async with asyncio.timeout(parts.PATIENCE_S):
                while sum(app.active for app in apps) < len(asking):
                    await asyncio.sleep(0.01)
            busy.append([app.active for app in apps])
        # Over the soft limits, up to the hard ones, all stay in the region; only then they leave it.
        assert [active for *_, active in busy] == [0] * 6 + [1, 2]
        assert busy[5] == [3, 3, 0]
        release.set()
        assert {(await one).status_code for one in asking} == {200}


async def test_overload_at_another_host_ends_in_503(servers: Servers) -> None:
    servers.limits = QUICK
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1", service={"hard_limit": 1})
    release = asyncio.Event()

    async def hold(_: Request) -> bytes:
        await release.wait()
        return response()

    async with web_app(fact.local_ipv4, near.lab.app_port, hold) as app:
        await servers.start()
        first = parts.spawn(near.get())
        async with asyncio.timeout(parts.PATIENCE_S):
            while not app.active:
                await asyncio.sleep(0.01)
        got = await near.get()
        assert got.status_code == 503
        assert "[PR04] every machine of hello is at its hard limit" in got.text
        release.set()
        assert (await first).status_code == 200


async def test_a_sleeping_machine_is_started_by_its_own_host(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1", state="stopped")
    app = WebApp(fact.local_ipv4, near.lab.app_port)

    async def wake(machine_id: str) -> None:
        await app.start()
        far.lab.agent.say(fact.model_copy(update={"state": "started"}))

    far.lab.agent.on_wake = wake
    await servers.start()
    got = await near.get()
    assert got.status_code == 200, got.text
    assert far.lab.agent.wakes == ["m1"]
    await app.stop()


async def test_what_one_host_cannot_take_another_does(servers: Servers) -> None:
    near = await servers.add()
    bad, good = await servers.add(), await servers.add()
    bad.machine("m1")
    fact = good.machine("m2")
    headers = HELLO | {"fly-prefer-instance-id": "m1"}
    async with web_app(fact.local_ipv4, near.lab.app_port, echo) as app:
        await servers.start()
        sent = 0
        async with asyncio.timeout(parts.PATIENCE_S):
            async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
                # One that was doubted a moment ago is asked only later.
                while sent < 20 or not (await bad.lab.metrics())[BOUNCED]:
                    body = f"body {sent}".encode()
                    got = await client.post(near.lab.url, headers=headers, content=body)
                    sent += 1
                    assert got.status_code == 200, got.text
                    assert got.json()["digest"] == hashlib.sha256(body).hexdigest()
    assert len(app.requests) == sent


async def test_a_host_that_is_down_is_left_for_another(servers: Servers) -> None:
    near = await servers.add()
    bad, good = await servers.add(), await servers.add()
    bad.machine("m1")
    fact = good.machine("m2")
    async with web_app(fact.local_ipv4, near.lab.app_port) as app:
        await servers.start(near, good)
        for _ in range(20):
            assert (await near.get()).status_code == 200
    assert len(app.requests) == 20


async def test_a_host_that_falls_silent_is_found_dead_and_left(servers: Servers) -> None:
    servers.limits = PATIENT.model_copy(update={"backhaul_silence_ms": 3_000})
    near = await servers.add()
    bad, good = await servers.add(), await servers.add()
    both = [server.machine(name) for server, name in ((bad, "m1"), (good, "m2"))]
    async with contextlib.AsyncExitStack() as stack:
        for fact in both:
            await stack.enter_async_context(web_app(fact.local_ipv4, near.lab.app_port))
        await servers.start()
        # Each host is asked, whichever of them was measured to be nearer.
        to_bad, to_good = ({"fly-prefer-instance-id": fact.machine_id} for fact in both)
        for _ in range(10):
            assert (await near.get(headers=to_bad)).status_code == 200
            assert (await near.get(headers=to_good)).status_code == 200
        (edge,) = bad.lab.edges
        edge.process.send_signal(signal.SIGSTOP)
        silent = f'godwit_edge_backhaul_silent{{host="{bad.host_id}"}}'
        async with asyncio.timeout(parts.PATIENCE_S):
            while not (await near.lab.metrics())[silent]:
                assert (await near.get(headers=to_bad)).status_code == 200
        for _ in range(30):
            assert (await near.get(headers=to_bad)).status_code == 200
        edge.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(parts.PATIENCE_S):
            while (await near.lab.metrics())[silent]:
                await asyncio.sleep(0.1)


async def test_when_the_client_goes_the_app_is_told(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1")
    asked, told = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() == b""
        told.set()

    async with parts.raw_app(fact.local_ipv4, near.lab.app_port, serve):
        await servers.start()
        client = parts.spawn(near.get())
        async with asyncio.timeout(parts.PATIENCE_S):
            await asked.wait()
            assert await far.lab.agent.count("m1") == (1, 0)
            client.cancel()
            await told.wait()
            while await far.lab.agent.count("m1") != (0, 0):
                await asyncio.sleep(0.02)


async def test_a_websocket_goes_through(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1", service={"hard_limit": 1})
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heads.append(head)
        if "upgrade: websocket" not in head.lower():
            writer.write(response(b"plain", "403 Forbidden"))
            return
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: yes\r\n\r\nhello"
        )
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.close()

    async with parts.raw_app(fact.local_ipv4, near.lab.app_port, serve):
        await servers.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", near.lab.port)
        writer.write(
            b"GET /chat?room=1 HTTP/1.1\r\nHost: hello.godwit.localhost\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
        )
        async with asyncio.timeout(parts.PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 101")
            assert "upgrade: websocket" in head
            assert "sec-websocket-accept: yes" in head
            assert await reader.readexactly(5) == b"hello"
            writer.write(b"abc")
            assert await reader.readexactly(3) == b"ABC"
            assert await far.lab.agent.count("m1") == (0, 1)
            writer.write_eof()
            assert await reader.read() == b""
            while await far.lab.agent.count("m1") != (0, 0):
                await asyncio.sleep(0.02)
        writer.close()
        refused = await near.get()
        assert (refused.status_code, refused.text) == (403, "plain")
    assert heads[0].startswith("GET /chat?room=1 HTTP/1.1")


async def test_an_app_that_declines_an_upgrade_is_heard(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1")

    async def decline(_: Request) -> bytes:
        return response(b"no socket here", "200 OK")

    async with web_app(fact.local_ipv4, near.lab.app_port, decline):
        await servers.start()
        upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
        got = await curl("-H", "Host: hello.godwit.localhost", *upgrade, near.lab.url)
    assert got == b"no socket here"


async def test_a_stranger_is_not_served(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    far.machine("m1")
    await servers.start()
    async with asyncio.timeout(parts.PATIENCE_S):
        # A worker may come to take backhaul a moment after its edge is ready.
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection(far.mesh, far.port)
                break
            await asyncio.sleep(0.02)
        assert await reader.read() == b""
    writer.close()
    await far.lab.counts(STRANGERS, 1)
    assert near.host_id != far.host_id


async def test_another_hosts_edge_is_asked_for_nothing_but_its_own(servers: Servers) -> None:
    """Two edges that each believe the machine is at the other do not send it in circles."""
    servers.limits = QUICK
    one, other = await servers.add(), await servers.add()
    fact = one.machine("m1")
    one.lab.agent.machines.clear()
    other.lab.agent.machines.clear()
    for here, there in ((one, other), (other, one)):
        believed = fact.model_copy(update={"host_id": there.host_id, "owner": there.host_id})
        view = here.lab.folder / "view.json"
        parts.keep_view(view, there.fact(), believed, host_id=here.host_id)
        await here.lab.start(known=1)
    got = await one.get()
    assert got.status_code == 503, got.text
    assert json.dumps(await one.lab.metrics()).count(TAKEN) == 1
    assert (await one.lab.metrics())[TAKEN] == 0


async def test_a_stream_of_bytes_goes_through_and_its_ends_are_told(servers: Servers) -> None:
    service = {"ports": [{"start_port": 80, "end_port": 80, "handlers": []}], "hard_limit": 1}
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1", service=service)
    app = parts.app("hello", addresses=("127.0.0.1",))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read()
        writer.write(said.upper())
        writer.close()

    async with parts.raw_app(fact.local_ipv4, near.lab.app_port, serve):
        await servers.start(apps=(app,))
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", near.lab.port)
            writer.write(b"x" * MB)
            writer.write_eof()
            async with asyncio.timeout(parts.PATIENCE_S):
                assert await reader.read() == b"X" * MB
                # The next one finds the machine's one place free, at its first attempt.
                while await far.lab.agent.count("m1") != (0, 0):
                    await asyncio.sleep(0.02)
            writer.close()
    assert (await far.lab.metrics())[TAKEN] == 3
