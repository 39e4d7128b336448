"""Everybody else gone, and the edge itself: views, bus, agent, drain."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from godwit.testing.loopback import free_port
from tests.host import rust_components as parts
from tests.host.conftest import Bus, persist, until
from tests.host.edge_lab import Lab, Load, curl, make_lab, on_bus  # noqa: F401
from tests.host.rust_components import Request, response, web_app

pytestmark = pytest.mark.host


async def test_an_edge_starts_from_its_last_view_alone(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        edge.terminate()
        assert await edge.ended() == 0
        await lab.agent.stop()
        await lab.start(known=1)
        assert (await lab.get()).status_code == 200
        view = await lab.view()
    assert (view["agent_connected"], view["bus_connected"]) == (False, False)


async def test_a_killed_edge_has_kept_its_view(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        await lab.shows(lambda view: view["saves"] > 0)
        await edge.kill()
        await lab.agent.stop()
        await lab.start(known=1)
        assert (await lab.get()).status_code == 200


async def test_a_damaged_view_keeps_no_edge_down(lab: Lab) -> None:
    fact = lab.machine("m1")
    lab.folder.mkdir()
    (lab.folder / "view.json").write_bytes(b"\x00garbage")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        assert (await lab.get()).status_code == 200


async def test_neither_bus_nor_agent_is_needed_for_requests(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    lab.changes = {}
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        await lab.shows(lambda view: view["bus_synced"])
        async with Load(lab) as load:
            await bus.kill()
            await load.more(50)
            await lab.agent.stop()
            await load.more(50)
            await bus.start()
            await lab.agent.start()
            await load.more(50)
            await lab.shows(lambda view: view["bus_synced"] and view["agent_synced"])
    await stream._connection.close()


async def test_facts_of_the_bus_are_followed_over_its_restart(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    fact = lab.machine("m1", host_id=bus.identity.host_id)
    record = parts.app("hello", hostnames=("www.example.com",))
    await stream.publish(record)
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        www = {"Host": "WWW.example.com"}
        async with asyncio.timeout(parts.PATIENCE_S):
            while (await lab.get(headers=www)).status_code != 200:
                await asyncio.sleep(0.05)
        # Its record names one host name only, which the default name is not.
        assert (await lab.get()).status_code == 404
        for number in range(3):
            await bus.kill()
            assert (await lab.get(headers=www)).status_code == 200
            await bus.start()
            name = f"n{number}.example.com"
            record = record.model_copy(
                update={"revision": record.revision + 1, "hostnames": ("www.example.com", name)}
            )
            await persist(lambda record=record: stream.publish(record))  # type: ignore[misc]
            async with asyncio.timeout(parts.PATIENCE_S):
                while (await lab.get(headers={"Host": name})).status_code != 200:
                    await asyncio.sleep(0.05)
        gone = record.model_copy(update={"revision": record.revision + 1, "deleted": True})
        await stream.publish(gone)
        async with asyncio.timeout(parts.PATIENCE_S):
            while (await lab.get(headers=www)).status_code != 404:
                await asyncio.sleep(0.05)
    await stream._connection.close()


async def test_a_bus_that_hangs_is_noticed_and_followed_again(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    await stream.publish(parts.app("first"))
    await lab.start()
    assert bus.process is not None
    await lab.shows(lambda view: view["apps"] == 1)
    bus.process.send_signal(signal.SIGSTOP)
    await lab.shows(lambda view: not view["bus_synced"])
    bus.process.send_signal(signal.SIGCONT)
    await persist(lambda: stream.publish(parts.app("second")))
    await lab.shows(lambda view: view["apps"] == 2)
    await stream._connection.close()


async def test_what_cannot_be_believed_is_skipped_and_counted(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    jetstream = stream._connection.jetstream
    other = parts.app("other").model_dump_json().encode()
    await jetstream.publish("facts.lcl.app.control.hello", other, stream=stream.name)
    await jetstream.publish("facts.lcl.app.control.broken", b"{not json", stream=stream.name)
    await jetstream.publish("facts.lcl.app.control.none", b"", stream=stream.name)
    await stream.publish(parts.app("good"))
    await lab.start(known=0)
    view = await lab.shows(lambda view: view["bus_synced"] and view["apps"] == 1)
    assert (view["skipped_owner"], view["skipped_unreadable"]) == (1, 2)
    await stream._connection.close()


async def test_a_machine_the_agent_forgot_is_forgotten(lab: Lab) -> None:
    lab.machine("m1")
    lab.machine("m2")
    await lab.start()
    await lab.agent.stop()
    del lab.agent.machines["m1"]
    await lab.agent.start()
    await lab.knows(1)


async def test_garbage_from_the_agent_is_counted(lab: Lab) -> None:
    lab.machine("m1")
    await lab.start()
    for writer in lab.agent._writers:
        writer.write(b'not json\n{"type":"fact","fact":{"kind":"later"}}\n')
    lab.machine("m2")
    await lab.knows(2)
    view = await lab.view()
    assert view["skipped_unreadable"] == 2
    assert view["agent_connected"]


async def refused(port: int) -> None:
    """Return once nobody listens there any more."""
    async with asyncio.timeout(parts.PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_a_drain_finishes_what_is_in_flight(lab: Lab) -> None:
    gate = asyncio.Event()

    async def held(_: Request) -> bytes:
        await gate.wait()
        return response(b"done")

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, held) as app:
        edge = await lab.start()
        http1 = parts.spawn(lab.get())
        http2 = parts.spawn(
            curl(
                "--http2-prior-knowledge", "-H", "Host: hello.godwit.localhost",
                "--connect-to", f"hello.godwit.localhost:80:127.0.0.1:{lab.port}",
                "http://hello.godwit.localhost:80/",
            )
        )  # fmt: skip
        await until(lambda: app.active == 2)
        edge.terminate()
        await refused(lab.port)
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            ready = await client.get(f"http://127.0.0.1:{lab.status_port}/ready")
        assert ready.status_code == 503
        gate.set()
        answer = await http1
        assert (answer.content, answer.headers["connection"]) == (b"done", "close")
        assert await http2 == b"done"
        assert await edge.ended() == 0


async def test_a_drain_ends_with_its_time(lab: Lab) -> None:
    async def never(_: Request) -> bytes:
        await asyncio.Event().wait()
        return b""

    lab.changes["drain_ms"] = 500
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, never) as app:
        edge = await lab.start()
        waiting = parts.spawn(lab.get())
        await until(lambda: app.active == 1)
        edge.terminate()
        assert await edge.ended() == 0
        with pytest.raises(httpx.HTTPError):
            await waiting


@pytest.fixture
def passing_on() -> Iterator[None]:
    """Have the kernel pass on what reaches a socket between its last accept and its end.

    Usually it resets such a connection: only a successor that takes the sockets over loses none,
    see `test_edge_restart`.
    """
    switch = Path("/proc/sys/net/ipv4/tcp_migrate_req")
    before = switch.read_text()
    switch.write_text("1")
    yield
    switch.write_text(before)


@pytest.mark.usefixtures("passing_on")
async def test_edges_take_turns_without_a_failed_request(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        async with Load(lab) as load:
            for _ in range(2):
                await load.more(50)
                lab.status_port = free_port()
                younger = await lab.start()
                edge.terminate()
                assert await edge.ended() == 0
                edge = younger
