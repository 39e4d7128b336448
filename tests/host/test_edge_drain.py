"""Machines that go away under traffic: drained, replaced, stopped, vanished."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.conftest import until
from tests.host.edge_lab import CONNECTED, HELLO, QUICK, Lab, make_lab  # noqa: F401
from tests.host.rust_components import Request, WebApp, response, web_app

pytestmark = pytest.mark.host

DRAINING = {"cordoned": True, "draining": True}


class Gate:
    """An app whose responses wait until they are let through."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = asyncio.Event()

    async def __call__(self, request: Request) -> bytes:
        if request.path == "/slow":
            await self.open.wait()
        return response(self.name.encode())


@contextlib.asynccontextmanager
async def two(lab: Lab) -> AsyncIterator[tuple[WebApp, WebApp, Gate]]:
    """Yield an edge's two apps at machines m1 and m2, and the gate of the first."""
    first, second = lab.machine("m1"), lab.machine("m2")
    gate = Gate("m1")
    async with (
        web_app(first.local_ipv4, lab.app_port, gate) as one,
        web_app(second.local_ipv4, lab.app_port, Gate("m2")) as other,
    ):
        await lab.start()
        yield one, other, gate


async def counted(lab: Lab, machine_id: str, requests: int, tunnels: int) -> None:
    """Return once the edge says that a machine has so many."""
    async with asyncio.timeout(parts.PATIENCE_S):
        while await lab.agent.count(machine_id) != (requests, tunnels):
            await asyncio.sleep(0.01)


async def test_an_edge_says_that_it_can_count(lab: Lab) -> None:
    await lab.start()
    await until(lambda: lab.agent.hellos)
    (hello,) = lab.agent.hellos
    assert (hello.v, hello.component) == (2, "edge")
    assert await lab.agent.count("m1") == (0, 0)


async def test_a_drained_machine_ends_what_it_has_and_gets_nothing_new(lab: Lab) -> None:
    async with (
        two(lab) as (one, _, gate),
        httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client,
    ):
        lab.agent.say(lab.agent.machines["m2"].model_copy(update=DRAINING))
        assert await lab.agent.count("m2") == (0, 0)
        slow = [parts.spawn(lab.get("/slow")) for _ in range(3)]
        kept = await client.get(lab.url, headers=HELLO)
        assert kept.text == "m1"
        await until(lambda: one.active == 3)
        lab.agent.say(
            lab.agent.machines["m2"].model_copy(update={"cordoned": False, "draining": False}),
            lab.agent.machines["m1"].model_copy(update=DRAINING),
        )
        # The answer says that no request goes there any more, of this connection neither.
        await counted(lab, "m1", 3, 0)
        for _ in range(20):
            assert (await client.get(lab.url, headers=HELLO)).text == "m2"
        gate.open.set()
        assert [(await each).text for each in slow] == ["m1"] * 3
        await counted(lab, "m1", 0, 0)


WISHES = [
    {},
    {"fly-prefer-region": "lcl"},
    {"fly-prefer-region": "zzz"},
    {"fly-force-region": "lcl"},
    {"fly-prefer-instance-id": "gone"},
    {"fly-force-instance-id": "m1"},
]
"""What clients may ask for that the machine `m1` would do for."""


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("away", [DRAINING, {"state": "replacing"}, {"state": "restarting"}])
async def test_requests_wait_for_the_only_machine_to_come_back(
    lab: Lab, away: dict[str, object], wish: dict[str, str]
) -> None:
    lab.limits = lab.limits.model_copy(update={"reach_ms": QUICK.reach_ms})
    fact = lab.machine("m1", **away)
    app = WebApp(fact.local_ipv4, lab.app_port)
    await lab.start()
    waiting = [parts.spawn(lab.get(headers=wish)) for _ in range(5)]
    await lab.counts(CONNECTED, 5)
    # Longer than a machine that is started may take to accept a connection.
    await asyncio.sleep(1.2 * QUICK.reach_ms / 1_000)
    assert not any(task.done() for task in waiting)
    back = {"state": "started", "cordoned": False, "draining": False}
    await app.start()
    lab.agent.say(fact.model_copy(update=back))
    assert {(await task).status_code for task in waiting} == {200}
    await app.stop()


@pytest.mark.parametrize("wish", [{"fly-force-region": "zzz"}, {"fly-force-instance-id": "m2"}])
async def test_no_machine_is_waited_for_that_would_not_do(lab: Lab, wish: dict[str, str]) -> None:
    lab.machine("m1", state="replacing")
    lab.machine("m3", service={"passing": False})
    await lab.start()
    got = await lab.get(headers=wish)
    assert got.status_code == 503
    assert "[PR04] hello has no machine such as was asked for" in got.text


async def test_a_machine_that_does_not_come_back_is_waited_for_so_long_and_no_longer(
    lab: Lab,
) -> None:
    lab.limits = lab.limits.model_copy(update={"wake_ms": 300})
    lab.machine("m1", state="replacing")
    await lab.start()
    got = await lab.get()
    assert (got.status_code, "[PM03]" in got.text) == (503, True)


async def test_so_many_requests_wait_for_a_machine_to_come_back_and_no_more(lab: Lab) -> None:
    lab.limits = lab.limits.model_copy(update={"queue_length": 3})
    fact = lab.machine("m1", state="replacing")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        waiting = [parts.spawn(lab.get()) for _ in range(3)]
        await lab.counts("godwit_edge_waiting", 3)
        got = await lab.get()
        assert got.status_code == 503
        told = "too many requests wait for a machine of hello to be ready"
        assert f"[PR04] {told}" in got.text
        assert not any(task.done() for task in waiting)
        lab.agent.say(fact.model_copy(update={"state": "started"}))
        assert {(await task).status_code for task in waiting} == {200}
        assert (await lab.get()).status_code == 200
    assert (await lab.metrics())["godwit_edge_waiting"] == 0


@pytest.mark.parametrize("wish", WISHES)
async def test_requests_wait_for_checks_to_pass(lab: Lab, wish: dict[str, str]) -> None:
    fact = lab.machine("m1", service={"passing": False})
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        waiting = parts.spawn(lab.get(headers=wish))
        await lab.counts(CONNECTED, 1)
        # Without a machine to hope for it would be refused at once.
        await asyncio.sleep(0.2)
        assert not waiting.done()
        lab.machine("m1", local_ipv4=fact.local_ipv4)
        lab.agent.say(
            fact.model_copy(
                update={
                    "revision": 10,
                    "services": (fact.services[0].model_copy(update={"passing": True}),),
                }
            )
        )
        assert (await waiting).status_code == 200


async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be an app that echoes, and says goodbye when it is told so."""
    request = await parts.read_request(reader)
    if request is None:
        return
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    while data := await reader.read(1000):
        writer.write(data.upper())
        if data == b"bye":
            break
    writer.close()


async def tunnel(lab: Lab) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a client's end of an open tunnel."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: hello.godwit.localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\n\r\n"
    )
    async with asyncio.timeout(parts.PATIENCE_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    return reader, writer


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, word: bytes) -> None:
    writer.write(word)
    async with asyncio.timeout(parts.PATIENCE_S):
        assert await reader.readexactly(len(word)) == word.upper()


async def test_a_tunnel_is_counted_apart_and_ends_with_the_apps_farewell(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with parts.raw_app(fact.local_ipv4, lab.app_port, upgrade):
        await lab.start()
        reader, writer = await tunnel(lab)
        assert await lab.agent.count("m1") == (0, 1)
        lab.agent.say(fact.model_copy(update=DRAINING))
        await echo(reader, writer, b"hello")
        lab.agent.say(fact.model_copy(update={"state": "stopping"}))
        assert await lab.agent.count("m1") == (0, 1)
        await echo(reader, writer, b"still here")
        await echo(reader, writer, b"bye")
        async with asyncio.timeout(parts.PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
        await counted(lab, "m1", 0, 0)


async def test_a_tunnel_to_a_machine_that_vanished_is_cut(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with parts.raw_app(fact.local_ipv4, lab.app_port, upgrade):
        await lab.start()
        reader, writer = await tunnel(lab)
        await echo(reader, writer, b"hello")
        lab.agent.say(fact.model_copy(update={"state": "stopped"}))
        async with asyncio.timeout(parts.PATIENCE_S):
            assert await reader.read() == b""
        writer.close()


async def test_a_request_at_a_machine_that_vanished_is_made_at_another(lab: Lab) -> None:
    async with two(lab) as (one, other, _):
        lab.agent.say(lab.agent.machines["m2"].model_copy(update=DRAINING))
        assert await lab.agent.count("m2") == (0, 0)
        asked = parts.spawn(lab.get("/slow"))
        paying = parts.spawn(httpx_post(lab, "/slow"))
        await until(lambda: one.active == 2)
        lab.agent.say(
            lab.agent.machines["m2"].model_copy(update={"cordoned": False, "draining": False})
        )
        other.handler = Gate("m2")
        other.handler.open.set()
        lab.agent.say(lab.agent.machines["m1"].model_copy(update={"state": "stopped"}))
        assert (await asked).text == "m2"
        assert (await paying).status_code == 502
        assert [request.method for request in other.requests] == ["GET"]


async def httpx_post(lab: Lab, path: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client:
        return await client.post(lab.url + path, headers=HELLO, content=b"pay")


async def test_a_websocket_that_one_machine_breaks_off_is_opened_at_another(lab: Lab) -> None:
    asked, other_is_back = asyncio.Event(), asyncio.Event()

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await parts.read_request(reader)
        asked.set()
        await other_is_back.wait()
        writer.transport.abort()

    first, second = lab.machine("m1"), lab.machine("m2")
    async with (
        parts.raw_app(first.local_ipv4, lab.app_port, break_off),
        parts.raw_app(second.local_ipv4, lab.app_port, upgrade),
    ):
        await lab.start()
        lab.agent.say(second.model_copy(update=DRAINING))
        await lab.agent.count("m2")
        opening = parts.spawn(tunnel(lab))
        await asked.wait()
        lab.agent.say(second)
        await lab.agent.count("m2")
        other_is_back.set()
        reader, writer = await opening
        await echo(reader, writer, b"hello")
        writer.close()
