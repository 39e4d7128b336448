import asyncio

import pytest

from godwit.agent import ports
from godwit.agent.vmm import session
from godwit.base import errors
from godwit.wire import channel
from tests.unit.agent.vmm import fake_shim

KIND = channel.Kind
ALL = channel.INITIAL_CREDIT


async def start(connection, body):
    connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 41})


@pytest.fixture
async def fake(tmp_path):
    async with fake_shim.FakeShim(tmp_path / "m.sock") as made:
        made.on["exec"] = start
        yield made


@pytest.fixture
async def live(fake):
    made = await session.Session.open("m", fake.path)
    yield made
    await made.close()


async def test_a_command_starts_with_what_it_was_given(fake, live):
    stream = await live.open_exec(
        ("sh", "-c", "id"),
        {"A": "b"},
        user="app",
        working_directory="/srv",
        tty=ports.Window(40, 80),
        container="web",
    )
    assert await stream.started() == 41
    assert fake.connections[0].messages()[0] == {
        "type": "exec",
        "stream": stream.number,
        "argv": ["sh", "-c", "id"],
        "env": {"A": "b"},
        "env_base64": {},
        "user": "app",
        "working_directory": "/srv",
        "tty": {"rows": 40, "cols": 80},
        "container": "web",
    }


async def test_output_comes_in_order_and_ends(fake, live):
    stream = await live.open_exec(("x",), {})
    guest = fake.connections[0]
    guest.frame(KIND.STDOUT, stream.number, b"one")
    guest.frame(KIND.STDERR, stream.number, b"two")
    guest.tell({"type": "exec_exited", "stream": stream.number, "exit_code": 143, "signal": 15})
    assert await stream.read() == (KIND.STDOUT, b"one")
    assert await stream.read() == (KIND.STDERR, b"two")
    assert await stream.read() is None
    assert await stream.read() is None
    assert await stream.wait() == (143, 15)


async def test_sessions_do_not_hear_each_other(fake, live):
    one, two = await live.open_exec(("x",), {}), await live.open_exec(("y",), {})
    fake.connections[0].frame(KIND.STDOUT, two.number, b"for two")
    fake.connections[0].frame(KIND.STDOUT, one.number, b"for one")
    assert (await one.read()).data == b"for one"
    assert (await two.read()).data == b"for two"


async def test_input_waits_for_credit(fake, live):
    stream = await live.open_exec(("cat",), {})
    guest = fake.connections[0]
    writing = asyncio.get_running_loop().create_task(stream.write(b"x" * (ALL + 1000)))
    await guest.until(lambda _: len(guest.sent(KIND.STDIN)) == ALL)
    await live.status()
    assert len(guest.sent(KIND.STDIN)) == ALL
    assert not writing.done()
    guest.frame(KIND.CREDIT, stream.number, fake_shim.CREDIT.pack(600))
    guest.frame(KIND.CREDIT, stream.number, fake_shim.CREDIT.pack(600))
    await writing
    await stream.write_eof()
    await guest.until(lambda heard: any(f.kind == KIND.EOF for f in heard))
    assert guest.sent(KIND.STDIN) == b"x" * (ALL + 1000)


async def test_input_to_a_command_that_ended_is_a_broken_pipe(fake, live):
    stream = await live.open_exec(("true",), {})
    writing = asyncio.get_running_loop().create_task(stream.write(b"x" * (ALL + 1)))
    fake.connections[0].tell({"type": "exec_exited", "stream": stream.number, "exit_code": 0})
    with pytest.raises(BrokenPipeError):
        await writing


async def test_what_is_read_is_granted_again(fake, live):
    stream = await live.open_exec(("yes",), {})
    guest = fake.connections[0]
    for _ in range(ALL // 1024):
        guest.frame(KIND.STDOUT, stream.number, b"y" * 1024)
    read = 0
    while read < ALL:
        read += len((await stream.read()).data)
    await guest.until(lambda _: len(guest.sent(KIND.CREDIT)) == 16)
    granted = [fake_shim.CREDIT.unpack(f.payload)[0] for f in guest.heard if f.kind == KIND.CREDIT]
    assert sum(granted) == ALL


async def test_output_without_credit_ends_the_connection(fake, live):
    stream = await live.open_exec(("yes",), {})
    for _ in range(ALL // 1024 + 1):
        fake.connections[0].frame(KIND.STDOUT, stream.number, b"y" * 1024)
    with pytest.raises(ConnectionError):
        await stream.wait()


async def test_resize_and_signals_name_the_stream(fake, live):
    stream = await live.open_exec(("sh",), {}, tty=ports.Window(24, 80))
    await stream.resize(ports.Window(50, 132))
    await stream.signal("SIGINT")
    await live.status()
    assert fake.connections[0].messages()[1:3] == [
        {"type": "resize", "rows": 50, "cols": 132, "stream": stream.number},
        {"type": "exec_signal", "signal": "SIGINT", "stream": stream.number},
    ]


async def test_closing_kills_and_drains(fake, live):
    async def end(connection, body):
        for _ in range(3):
            connection.frame(KIND.STDOUT, body["stream"], b"last words")
        connection.tell(
            {"type": "exec_exited", "stream": body["stream"], "exit_code": 137, "signal": 9}
        )

    fake.on["exec_signal"] = end
    stream = await live.open_exec(("sleep",), {})
    await stream.close()
    assert fake.connections[0].messages()[-1]["signal"] == "SIGKILL"
    assert await stream.wait() == (137, 9)
    await stream.close()


async def test_closing_a_command_that_does_not_die_is_bounded(fake, live):
    stream = await live.open_exec(("immortal",), {})
    with pytest.raises(TimeoutError):
        await stream.close(within_s=0.05)


async def test_no_such_program_is_the_callers_mistake(fake, live):
    async def fail(connection, body):
        connection.tell(
            {"type": "exec_failed", "stream": body["stream"], "message": "no such program: x"}
        )

    fake.on["exec"] = fail
    with pytest.raises(errors.Failure, match="no such program: x") as caught:
        await live.open_exec(("x",), {})
    assert caught.value.code == "invalid_argument"


async def test_a_machine_that_is_not_running_refuses(fake, live):
    async def refuse(connection, body):
        connection.tell(
            {
                "type": "error",
                "message": "the machine is not running",
                "regarding": "exec",
                "stream": body["stream"],
            }
        )

    fake.on["exec"] = refuse
    with pytest.raises(errors.Failure) as caught:
        await live.open_exec(("x",), {})
    assert caught.value.code == "failed_precondition"


async def test_a_session_lost_in_the_guest_is_not_the_callers_mistake(fake, live):
    stream = await live.open_exec(("x",), {})
    fake.connections[0].tell(
        {"type": "exec_failed", "stream": stream.number, "message": "the channel broke"}
    )
    with pytest.raises(errors.Failure) as caught:
        await stream.wait()
    assert caught.value.code == "unavailable"
    assert await stream.read() is None


async def test_a_dying_shim_ends_reads_writes_and_waits(fake, live):
    stream = await live.open_exec(("x",), {})
    await fake.die()
    assert await stream.read() is None
    with pytest.raises(ConnectionError):
        await stream.wait()
    with pytest.raises(ConnectionError):
        await stream.write(b"x")
