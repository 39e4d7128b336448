import asyncio
from pathlib import Path

import pytest

from godwit.agent.vmm import session
from godwit.base import errors
from godwit.wire import channel, shim
from tests.unit.agent.vmm import fake_shim

KIND = channel.Kind


@pytest.fixture
async def fake(tmp_path):
    async with fake_shim.FakeShim(tmp_path / "m.sock") as made:
        yield made


@pytest.fixture
async def live(fake):
    made = await session.Session.open("148ed193b95948", fake.path)
    assert made is not None
    yield made
    await made.close()


async def test_nobody_listening_is_no_session(tmp_path, fake):
    assert await session.Session.open("x", tmp_path / "absent.sock") is None
    await fake.die()
    fake.path.touch()
    assert await session.Session.open("x", fake.path) is None


async def test_status_is_asked_each_time(fake, live):
    assert (await live.status()).phase == "running"
    fake.status = fake_shim.status("exited")
    assert (await live.status()).phase == "exited"


async def test_changes_begin_with_now_and_end_with_the_shim(fake, live):
    fake.status = fake_shim.status("booting")
    seen = []
    async for status in live.changes():
        seen.append(status.phase)
        if status.phase == "booting":
            fake.change(fake_shim.status("running"))
        elif status.phase == "running":
            fake.change(fake_shim.status("exited"))
        else:
            await fake.die()
    assert seen == ["booting", "running", "exited"]


async def test_changes_may_be_watched_again_on_the_same_session(fake, live):
    async for _ in live.changes():
        break
    async for status in live.changes():
        assert status.phase == "running"
        break


async def test_a_slow_watcher_sees_the_latest(fake, live):
    changes = live.changes()
    await anext(changes)
    for phase in ("booting", "ready", "exited"):
        fake.change(fake_shim.status(phase))
    await live.status()
    assert (await anext(changes)).phase == "exited"


async def test_requests_reach_the_shim_as_the_protocol_names_them(fake, live):
    await live.stop("SIGINT", 5000)
    await live.signal("SIGHUP")
    await live.kill()
    await live.status()
    assert fake.connections[0].messages()[:3] == [
        {"type": "stop", "signal": "SIGINT", "timeout_ms": 5000},
        {"type": "signal", "signal": "SIGHUP"},
        {"type": "kill"},
    ]


async def test_stats_are_matched_by_number(fake, live):
    async def answer(connection, body):
        connection.tell({"type": "stats", "id": 999, "memory": {"total": 1}})
        connection.tell({"type": "stats", "id": body["id"], "memory": {"total": 2}})

    fake.on["stats"] = answer
    assert await live.stats() == {"memory": {"total": 2}}


async def test_stats_of_a_silent_guest_are_a_failure(fake, live):
    async def refuse(connection, body):
        connection.tell({"type": "error", "message": "cannot be reached", "regarding": "stats"})

    fake.on["stats"] = refuse
    with pytest.raises(errors.Failure, match="cannot be reached"):
        await live.stats()


@pytest.mark.parametrize("ask", ["status", "stats"])
async def test_a_dying_shim_ends_every_wait(fake, live, ask):
    async def die(connection, body):
        await fake.die()

    fake.on["stats"] = die
    if ask == "status":
        await fake.die()
    with pytest.raises(ConnectionError):
        await (live.status() if ask == "status" else live.stats())
    with pytest.raises(ConnectionError):
        await live.kill()
    assert [status async for status in live.changes()] == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 64,
        channel.encode(channel.Frame(KIND.MESSAGE, 0, b"not json")),
        channel.encode(channel.Frame(KIND.MESSAGE, 0, b"[]")),
        channel.encode(channel.Frame(KIND.MESSAGE, 0, b'{"type": 5}')),
        channel.encode(channel.Frame(KIND.MESSAGE, 0, b"\xff\xfe")),
    ],
)
async def test_garbage_closes_the_connection_and_nothing_else(fake, live, garbage):
    await live.status()
    fake.connections[0].writer.write(garbage)
    assert [status async for status in live.changes()][1:] == []
    again = await session.Session.open("x", fake.path)
    assert again is not None
    assert (await again.status()).phase == "running"
    await again.close()


async def test_words_of_a_newer_shim_are_ignored(fake, live):
    await live.status()
    fake.connections[0].tell({"type": "from_the_future", "stream": 5})
    fake.connections[0].tell({"type": "status", "phase": "unheard of"})
    fake.connections[0].frame(KIND.STDOUT, 77, b"of nobody's command")
    assert (await live.status()).phase == "running"


async def test_closing_leaves_the_machine_alone(fake, live):
    await live.status()
    await live.close()
    assert [m["type"] for m in fake.connections[0].messages()] == ["status"]
    await live.close()


async def test_the_status_record_survives_the_wire(fake, live):
    fake.status = fake_shim.status(
        "exited",
        exit=shim.ExitRecord(
            machine_id="148ed193b95948",
            instance_id="01K8",
            exited_at_ms=5,
            cause="guest",
            guest=shim.GuestExit(exit_code=137, signal=9, oom_killed=True),
            vmm=shim.VmmExit(exit_code=0),
        ),
    )
    assert await live.status() == fake.status


async def test_a_path_is_enough_to_find_the_shim(fake, tmp_path):
    opened = await asyncio.gather(*(session.Session.open("x", Path(fake.path)) for _ in range(5)))
    assert all(s is not None for s in opened)
    for each in opened:
        assert (await each.status()).phase == "running"
        await each.close()


async def test_a_connection_to_the_guests_socket_is_a_stream_with_little_credit(fake, live):
    async def serve(connection, body):
        number = body["stream"]
        assert body["credit"] == 10
        connection.tell({"type": "exec_started", "stream": number, "pid": 7})
        connection.frame(KIND.STDOUT, number, b"GET / HTTP")
        await connection.until(lambda heard: any(f.kind == KIND.CREDIT for f in heard))
        connection.frame(KIND.EOF, number, b"")
        connection.frame(KIND.EOF, number, b"")
        await connection.until(lambda heard: any(f.kind == KIND.EOF for f in heard))
        connection.tell({"type": "exec_exited", "stream": number, "exit_code": 0, "signal": None})

    async def begin(connection, body):
        serving.append(asyncio.get_running_loop().create_task(serve(connection, body)))

    serving = []
    fake.on["accept"] = begin
    stream = await live.accept(10)
    assert (await stream.read()).data == b"GET / HTTP"
    assert await stream.read() is None
    await stream.write(b"answer")
    await stream.write_eof()
    await stream.wait()
    assert fake.connections[0].sent(KIND.STDIN) == b"answer"
    await asyncio.gather(*serving)


async def test_a_shim_of_a_former_release_has_no_such_socket(fake, live):
    async def refuse(connection, body):
        del body
        message = "this shim does not know that message"
        connection.tell({"type": "error", "regarding": "accept", "message": message})

    fake.on["accept"] = refuse
    with pytest.raises(errors.Failure) as caught:
        await live.accept(10)
    assert caught.value.code == "failed_precondition"
