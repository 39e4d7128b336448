import asyncio

import pytest

from godwit.agent.vmm import commands, session
from godwit.base import errors, tasks
from godwit.bus import answering
from godwit.wire import channel, host_rpc
from tests.unit.agent.vmm import fake_shim

KIND = channel.Kind


@pytest.fixture
async def fake(tmp_path):
    async with fake_shim.FakeShim(tmp_path / "m.sock") as made:
        yield made


@pytest.fixture
async def live(fake):
    made = await session.Session.open("m", fake.path)
    yield made
    await made.close()


def request(*command, **more):
    return host_rpc.ExecRequest(machine_id="m", command=command, **more)


def ends(connection, body, exit_code=0, signal=None):
    connection.tell(
        {
            "type": "exec_exited",
            "stream": body["stream"],
            "exit_code": exit_code,
            "signal": signal,
        }
    )


async def test_a_command_is_run_to_its_end(fake, live):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        connection.frame(KIND.STDOUT, body["stream"], b"out \xff")
        connection.frame(KIND.STDERR, body["stream"], b"err")
        ends(connection, body, exit_code=3)

    fake.on["exec"] = run
    answer = await live.exec(request("sh", "-c", "x", user="app"), {"PATH": "/bin"})
    assert answer == host_rpc.ExecAnswer(exit_code=3, stdout="out �", stderr="err")


async def test_input_reaches_the_command_and_ends(fake, live):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})

    fake.on["exec"] = run
    guest: list[fake_shim.Connection] = fake.connections

    async def when_eof():
        await guest[0].until(lambda heard: any(f.kind == KIND.EOF for f in heard))
        guest[0].frame(KIND.STDOUT, 1, guest[0].sent(KIND.STDIN))
        ends(guest[0], {"stream": 1})

    await live.status()
    async with session.tasks.Tasks("test") as helpers:
        helpers.spawn(when_eof(), name="guest")
        answer = await live.exec(request("cat", stdin="grüß"), {})
    assert answer.stdout == "grüß"


async def test_output_is_cut_and_says_so_and_the_command_ends_all_the_same(fake, live):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        for _ in range(3):
            connection.frame(KIND.STDOUT, body["stream"], b"x" * 65_536)
        connection.frame(KIND.STDERR, body["stream"], b"y" * 16)
        ends(connection, body)

    fake.on["exec"] = run
    answer = await live.exec(request("yes"), {})
    assert answer.stdout.startswith("x" * commands.OUTPUT_BYTES + "\n[cut")
    assert len(answer.stdout) < commands.OUTPUT_BYTES + 100
    assert answer.stderr == "y" * 16


async def test_output_of_exactly_the_limit_is_whole(fake, live):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        for _ in range(2):
            connection.frame(KIND.STDOUT, body["stream"], b"x" * 65_536)
        ends(connection, body)

    fake.on["exec"] = run
    assert (await live.exec(request("x"), {})).stdout == "x" * commands.OUTPUT_BYTES


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b'"', "é".encode()])
async def test_output_that_is_no_plain_text_fits_the_answer_all_the_same(fake, live, byte):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        for kind in (KIND.STDOUT, KIND.STDERR):
            for _ in range(2):
                connection.frame(kind, body["stream"], byte * (65_536 // len(byte)))
        ends(connection, body)

    fake.on["exec"] = run
    answer = await live.exec(request("cat", "/dev/urandom"), {})
    reply = answering.encoded(host_rpc.Reply(body=answer.model_dump(mode="json")))
    assert len(reply) <= answering.MAX_BODY_BYTES
    assert answer.stdout == answer.stderr
    told = byte.decode(errors="replace")
    assert answer.stdout.startswith(told * 30_000)
    assert answer.stdout.endswith("is not shown]\n") == (byte != "é".encode())


async def test_a_command_that_does_not_end_is_killed(fake, live):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})

    async def killed(connection, body):
        ends(connection, body, exit_code=137, signal=9)

    fake.on |= {"exec": run, "exec_signal": killed}
    with pytest.raises(errors.Failure) as caught:
        await live.exec(request("sleep", timeout_s=0.05), {})
    assert caught.value.code == "deadline_exceeded"
    assert "0.05 s" in caught.value.message
    assert fake.connections[0].messages()[-1]["signal"] == "SIGKILL"


async def test_a_shim_that_dies_meanwhile_means_the_machine_does_not_run(fake, live):
    async def die(connection, body):
        await fake.die()

    fake.on["exec"] = die
    with pytest.raises(errors.Failure) as caught:
        await live.exec(request("x"), {})
    assert caught.value.code == "failed_precondition"


async def test_no_command_is_refused(live):
    with pytest.raises(errors.Failure) as caught:
        await live.exec(request(), {})
    assert caught.value.code == "invalid_argument"


async def test_a_terminal_is_asked_for(fake, live):
    async def run(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        ends(connection, body)

    fake.on["exec"] = run
    await live.exec(request("tty", tty=True), {})
    assert fake.connections[0].messages()[0]["tty"] == {"rows": 24, "cols": 80}


def says(text: bytes, exit_code=0):
    async def run(connection, body):
        assert body["argv"] == ["/proc/1/exe", "ps"]
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        connection.frame(KIND.STDOUT, body["stream"], text)
        ends(connection, body, exit_code=exit_code)

    return run


async def test_processes_are_what_inits_own_program_prints(fake, live):
    process = host_rpc.GuestProcess(pid=7, command="serve", rss=4096)
    told = host_rpc.GuestProcesses(processes=(process,))
    fake.on["exec"] = says(told.model_dump_json().encode())
    assert await live.ps() == (process,)


async def test_an_init_that_knows_no_ps_is_told_of_at_once(fake, live):
    fake.on["exec"] = says(b"", exit_code=2)
    with pytest.raises(errors.Failure) as caught:
        await live.ps()
    assert (caught.value.code, caught.value.hint) == ("failed_precondition", "restart the machine")


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b'{"processes": [{"pid": "x"}]}'])
async def test_a_guest_that_tells_nonsense_is_not_believed(fake, live, text):
    fake.on["exec"] = says(text)
    with pytest.raises(errors.Failure) as caught:
        await live.ps()
    assert caught.value.code == "unavailable"


async def test_a_shim_that_reads_nothing_holds_up_neither_command_nor_goodbye(fake, live):
    deaf = asyncio.Event()

    async def hang(connection, body):
        connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
        await deaf.wait()

    fake.on["exec"] = hang
    async with asyncio.timeout(60):
        with pytest.raises(errors.Failure) as caught:
            await live.exec(request("cat", stdin="x" * 4_000_000, timeout_s=0.2), {})
        assert caught.value.code == "deadline_exceeded"
        await live.close()
    deaf.set()


async def test_a_guest_that_floods_is_stopped_at_the_deadline(fake, live):
    poured, flooding = 0, True

    async def pour(connection, stream):
        nonlocal poured
        while flooding:
            granted = sum(
                fake_shim.CREDIT.unpack(frame.payload)[0]
                for frame in connection.heard
                if frame.kind == KIND.CREDIT
            )
            if poured + 16_384 <= channel.INITIAL_CREDIT + granted:
                connection.frame(KIND.STDOUT, stream, b"y" * 16_384)
                poured += 16_384
            await asyncio.sleep(0)

    async with tasks.Tasks("guest") as guest:

        async def flood(connection, body):
            connection.tell({"type": "exec_started", "stream": body["stream"], "pid": 5})
            guest.spawn(pour(connection, body["stream"]), name="flood")

        async def killed(connection, body):
            nonlocal flooding
            flooding = False
            ends(connection, body, exit_code=137, signal=9)

        fake.on |= {"exec": flood, "exec_signal": killed}
        async with asyncio.timeout(60):
            with pytest.raises(errors.Failure) as caught:
                await live.exec(request("yes", timeout_s=0.3), {})
    assert caught.value.code == "deadline_exceeded"
    assert poured > channel.INITIAL_CREDIT
