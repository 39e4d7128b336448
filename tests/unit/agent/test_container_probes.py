"""Containers' checks over HTTPS: TLS through a stream of the guest's, and who asks when."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from godwit.agent import check_config, container_probes, ports, probes
from godwit.agent.machines.driver import Driver
from godwit.base import clock, errors, tasks
from godwit.testing.registry import Tls, make_tls
from godwit.wire import channel
from godwit.wire.guest_containers import CheckStanding, Standing

WITHIN_S = 60


class Carried:
    """What `godwit-init carry` does: joins a port of this host and its standard streams."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.closed = False

    async def open(self) -> None:
        with contextlib.suppress(OSError):
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self._refused = [ports.Chunk(channel.Kind.STDERR, b"port 1: connection refused\n")]

    async def read(self) -> ports.Chunk | None:
        if self._streams is None:
            return self._refused.pop() if self._refused else None
        with contextlib.suppress(OSError):
            if data := await self._streams[0].read(7):
                return ports.Chunk(channel.Kind.STDOUT, data)
        return None

    async def write(self, data: bytes) -> None:
        if self._streams is None:
            raise BrokenPipeError("the command has ended")
        self._streams[1].write(data)

    async def close(self, *, within_s: float = 5.0) -> None:
        del within_s
        self.closed = True
        if self._streams is not None:
            self._streams[1].close()


class Session:
    """A machine's shim; keeps what init was told."""

    def __init__(self) -> None:
        self.answers: list[ports.Answer] = []
        self.carried: list[Carried] = []
        self.told = asyncio.Event()
        self.away = False

    async def open_exec(self, argv: tuple[str, ...], env: dict[str, str]) -> Carried:
        assert argv[:2] == ("/proc/1/exe", "carry")
        assert not env
        self.carried.append(Carried(int(argv[2])))
        await self.carried[-1].open()
        return self.carried[-1]

    async def answer(self, answer: ports.Answer) -> None:
        self.answers.append(answer)
        self.told.set()

    @contextlib.asynccontextmanager
    async def opened(self, driver: Driver) -> AsyncIterator[ports.ShimSession]:
        del driver
        if self.away:
            self.told.set()
            raise errors.Failure("failed_precondition", "the machine is not running")
        yield cast("ports.ShimSession", self)

    async def next(self) -> ports.Answer | None:
        async with asyncio.timeout(WITHIN_S):
            await self.told.wait()
        self.told.clear()
        return self.answers[-1] if self.answers else None


class Server:
    """HTTPS, or whatever it is made to say."""

    def __init__(self) -> None:
        self.says = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell"
        self.asked = b""
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.says)
            await writer.drain()
        writer.close()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tls:
    made = make_tls(tmp_path / "tls", "127.0.0.1")

    def trusting(check: check_config.Check) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(made.authority))
        if not check.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    monkeypatch.setattr(probes, "tls_context", trusting)
    return made


@pytest.fixture
async def server(tls: Tls) -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.answer, "127.0.0.1", 0, ssl=tls.server_context())
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


def config(port: int, **changes: Any) -> dict[str, Any]:
    http = {"port": port, "scheme": "https", "path": "/up", **changes}
    check = {"name": "tls", "interval": 1, "timeout": 60, "http": http}
    return {"containers": [{"name": "app", "healthchecks": [{"tcp": {"port": 1}}, check]}]}


def check_of(given: dict[str, Any]) -> check_config.Check:
    asked = check_config.of_containers(given)[1].asked
    assert asked is not None
    return asked


async def ask(session: Session, port: int, **changes: Any) -> probes.Result:
    asked = check_of(config(port, **changes))
    found = await container_probes.ask(cast("ports.ShimSession", session), asked)
    assert session.carried[-1].closed
    return found


async def test_an_answer_comes_through_tls_and_a_success_alone_is_good(server: Server) -> None:
    session = Session()
    good = await ask(session, server.port, headers=[{"name": "Host", "values": ["a.example"]}])
    assert (good.passing, good.output) == (True, "HTTP 200: well")
    assert server.asked.startswith(b"GET /up HTTP/1.1\r\n")
    assert b"Host: a.example\r\n" in server.asked
    server.says = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    bad = await ask(session, server.port)
    assert (bad.passing, bad.output) == (False, "HTTP 503")


async def test_a_certificate_has_to_be_good_unless_it_need_not(server: Server) -> None:
    session = Session()
    wrong = await ask(session, server.port, tls_server_name="b.example")
    assert not wrong.passing
    assert wrong.output.startswith("its certificate is not good: "), wrong
    any_other = {"tls_server_name": "b.example", "tls_skip_verify": True}
    assert (await ask(session, server.port, **any_other)).passing
    assert b"Host: b.example\r\n" in server.asked


async def test_what_is_no_answer_is_said_in_words(server: Server, tls: Tls) -> None:
    session = Session()
    refused = await ask(session, 1)
    assert (refused.passing, refused.output) == (False, "port 1: connection refused")
    server.says = b"SSH-2.0-x\r\n\r\n"
    other = await ask(session, server.port)
    assert (other.passing, other.output) == (False, "no answer by HTTP")
    server.says = b""
    silent = await ask(session, server.port)
    assert (silent.passing, silent.output) == (False, "no answer by HTTP")
    no_header = await ask(session, server.port, headers=[{"name": "X", "values": ["✓"]}])
    assert no_header.output.startswith("the check cannot be made: "), no_header

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    no_tls = await ask(session, listening.sockets[0].getsockname()[1], tls_skip_verify=True)
    assert not no_tls.passing
    assert "no answer within" not in no_tls.output
    listening.close()


class Machine:
    """As much of a driver as is needed."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.machine = self
        self.machine_id = "m1"
        self.config = given
        self.about: dict[str, str] = {}


def told(run: int, state: str = "started", status: str = "warning") -> tuple[Standing, ...]:
    checks = (CheckStanding(status="warning"), CheckStanding(status=status))
    return (Standing(name="app", state=state, run=run, checks=checks),)


async def test_a_container_is_asked_while_it_runs_and_init_hears_of_that_run(
    server: Server,
) -> None:
    session = Session()
    driver = cast("Driver", Machine(config(server.port)))
    async with tasks.Tasks("test") as owned:
        these = container_probes.ContainerProbes(session.opened, clock.SystemClock(), owned)
        these.follow(driver, "boot1", told(0, "created"))
        assert session.answers == []
        these.hear("m1", told(1))
        assert await session.next() == ports.Answer("app", 1, 1, True, "HTTP 200: well")
        # The agent cannot reach it for a moment: init hears nothing, and is asked again.
        session.away = True
        count = len(session.answers)
        assert await session.next() is not None
        assert len(session.answers) == count
        session.away = False
        while (answer := await session.next()) is None or len(session.answers) == count:
            pass
        assert answer.run == 1
        these.hear("m1", ())
        these.hear("m1", told(1, "starting"))
        these.hear("m1", told(2))
        while (answer := await session.next()) is None or answer.run == 1:
            pass
        assert answer.run == 2
        these.follow(driver, None, ())
        await asyncio.sleep(0)
    assert {one.check for one in session.answers} == {1}


async def test_a_machine_without_such_checks_costs_nothing() -> None:
    session = Session()
    driver = cast("Driver", Machine({"containers": [{"name": "app"}]}))
    async with tasks.Tasks("test") as owned:
        these = container_probes.ContainerProbes(session.opened, clock.SystemClock(), owned)
        these.follow(driver, "boot1", told(1))
        these.hear("m1", told(2))
        await asyncio.sleep(0)
    assert session.carried == []
