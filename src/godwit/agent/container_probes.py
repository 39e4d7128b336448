"""Containers' health checks over HTTPS: asked by this host, counted by the guest's init.

Init has no TLS, and asks all others itself. The connection is the guest's own all the same: a
program beside PID 1 joins a port of its loopback addresses and a stream of the control channel,
and TLS is spoken by the agent at this end. Init hears each answer and knows thresholds, who waits
for whom, and what is stopped; without an agent it hears none, and all stays as it is.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import h11

from godwit.agent import ports, probes
from godwit.agent.check_config import Check, ContainerCheck, of_containers
from godwit.agent.machines.driver import Driver
from godwit.base import clock, encoded, errors, log, tasks
from godwit.wire import channel
from godwit.wire.guest_containers import Standing

logger = logging.getLogger(__name__)

_CARRY = ("/proc/1/exe", "carry")
_EAGER_S = 1.0
_EAGER_FOR_S = 60.0
"""As init's own checks: soon again until one passes, for a minute."""
_GRACE_S = 2.0
"""What the way to the guest and back may take beside the container's own time."""
_AT_ONCE = 4
"""Of one machine: nobody else's checks wait for its answers."""
_PACE_S = 0.25
"""So long a place stays taken, or a machine with many checks would have this host do nothing but
shake hands."""
_MOST_SAID = 120
_CHUNK = 16_384

Sessions = Callable[[Driver], AbstractAsyncContextManager[ports.ShimSession]]
Asked = tuple[ContainerCheck, int]
"""A check, and the run of its container that is asked."""


@dataclass
class _Followed:
    """One boot of a machine with such checks."""

    driver: Driver
    boot: str
    checks: tuple[ContainerCheck, ...]
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    asking: dict[Asked, asyncio.Task[None]] = field(default_factory=dict)
    passing: set[Asked] = field(default_factory=set)


class ContainerProbes:
    """Asks containers of all machines here.

    Args:
        sessions: Opens a session with a machine's shim.
        the_clock: Paces the questions.
        owned: Owns the tasks.
    """

    def __init__(self, sessions: Sessions, the_clock: clock.Clock, owned: tasks.Tasks) -> None:
        self._sessions = sessions
        self._clock = the_clock
        self._tasks = owned
        self._followed: dict[str, _Followed] = {}

    def follow(self, driver: Driver, boot: str | None, told: Sequence[Standing]) -> None:
        """Ask a machine's containers from now on; `boot` is its present start, `None` ends it."""
        machine_id = driver.machine.machine_id
        followed = self._followed.get(machine_id)
        if followed is not None and followed.boot != boot:
            self._followed.pop(machine_id)
            for task in followed.asking.values():
                task.cancel()
        if boot is None or (followed is not None and followed.boot == boot):
            return
        checks = of_containers(driver.machine.config)
        asked = tuple(check for check in checks if check.asked is not None)
        if asked:
            self._followed[machine_id] = _Followed(driver, boot, asked)
            self.hear(machine_id, told)

    def hear(self, machine_id: str, told: Sequence[Standing]) -> None:
        """Take in which containers run, and how their checks are."""
        followed = self._followed.get(machine_id)
        if followed is None or not told:
            # Nothing is heard for a moment while another session begins.
            return
        standings = {one.name: one for one in told if one.state == "started"}
        statuses: dict[Asked, str] = {}
        for check in followed.checks:
            standing = standings.get(check.container)
            if standing is not None and check.number < len(standing.checks or ()):
                statuses[check, standing.run] = (standing.checks or ())[check.number].status
        followed.passing = {asked for asked, status in statuses.items() if status == "passing"}
        for gone in followed.asking.keys() - statuses.keys():
            followed.asking.pop(gone).cancel()
        for asked in statuses.keys() - followed.asking.keys():
            task = self._tasks.spawn(
                self._keep_asking(followed, asked), name=f"check.{machine_id}.{asked[0].name}"
            )
            followed.asking[asked] = task

    async def _keep_asking(self, followed: _Followed, asked: Asked) -> None:
        check, run = asked
        begun = self._clock.monotonic()
        while True:
            async with followed.places:
                # First, as a guest says as often as it likes that it runs another time.
                await self._clock.sleep(_PACE_S)
                with log.bound(**followed.driver.machine.about):
                    await self._ask(followed.driver, check, run)
            young = self._clock.monotonic() - begun < _EAGER_FOR_S
            eager = young and asked not in followed.passing
            await self._clock.sleep(min(_EAGER_S, check.interval_s) if eager else check.interval_s)

    async def _ask(self, driver: Driver, check: ContainerCheck, run: int) -> None:
        """Ask once, and tell init; an answer that this host cannot get is none."""
        if check.asked is None:
            return
        try:
            async with self._sessions(driver) as session:
                result = await ask(session, check.asked)
                output = result.output[:_MOST_SAID]
                answer = ports.Answer(check.container, run, check.number, result.passing, output)
                await session.answer(answer)
        except errors.Failure as failure:
            logger.info("%s was not asked: %s", check.name, failure.message)


async def ask(session: ports.ShimSession, check: Check) -> probes.Result:
    """Return what a container answered.

    Raises:
        Failure: It could not be asked: the machine does not run, or its shim is gone.
        ConnectionError: Likewise.
        TimeoutError: Its guest does not answer at all.
    """
    stream = await session.open_exec((*_CARRY, str(check.port)), {})
    try:
        async with asyncio.timeout(check.timeout_s + _GRACE_S):
            status, said = await _request(_Secured(stream, check), check)
    except TimeoutError:
        return probes.Result(passing=False, output=f"no answer within {check.timeout_s:g} s")
    except (ssl.SSLError, h11.ProtocolError, ValueError, _Ended) as error:
        return probes.Result(passing=False, output=_in_words(error))
    finally:
        await _close(stream)
    passing = 200 <= status < 300  # noqa: PLR2004
    return probes.Result(passing=passing, output=f"HTTP {status}{said}")


class _Ended(Exception):
    """The connection ended before there was an answer."""


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, h11.RemoteProtocolError):
        return "no answer by HTTP"
    if isinstance(error, ValueError | h11.LocalProtocolError):
        # Headers, names and paths come from the config, and not all of them can be sent.
        return f"the check cannot be made: {error}"
    return str(error)


async def _close(stream: ports.ExecStream) -> None:
    try:
        await stream.close()
    except (OSError, errors.Failure) as error:
        logger.debug("a connection to a container ends badly: %s", error)


class _Secured:
    """TLS of a client over the standard streams of a program in the guest."""

    def __init__(self, stream: ports.ExecStream, check: Check) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = probes.tls_context(check).wrap_bio(
            self._incoming, self._outgoing, server_hostname=check.server_name or "127.0.0.1"
        )
        self._complaint = ""

    async def write(self, data: bytes) -> None:
        """Send bytes; the first also shake hands."""
        await self._driven(self._tls.do_handshake)
        await self._driven(lambda: self._tls.write(data))

    async def read(self) -> bytes:
        """Return what came next, nothing at the end."""
        try:
            return await self._driven(lambda: self._tls.read(_CHUNK))
        except ssl.SSLZeroReturnError:
            return b""

    async def _driven(self, doing: Callable[[], object]) -> bytes:
        while True:
            try:
                done = doing()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            else:
                await self._flush()
                return done if isinstance(done, bytes) else b""

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            try:
                await self._stream.write(data)
            except BrokenPipeError:
                # Reading tells why.
                return

    async def _feed(self) -> None:
        while (chunk := await self._stream.read()) is not None:
            if chunk.kind == channel.Kind.STDOUT:
                self._incoming.write(chunk.data)
                return
            self._complaint += chunk.data.decode(errors="replace")
        raise _Ended(self._complaint.strip() or "the connection ended before there was an answer")


async def _request(secured: _Secured, check: Check) -> tuple[int, str]:
    """Return status and the beginning of the body of the answer."""
    connection = h11.Connection(h11.CLIENT)
    names = {name.lower() for name, _ in check.headers}
    headers = [*check.headers, ("Connection", "close")]
    if "host" not in names:
        headers.append(("Host", check.server_name or f"127.0.0.1:{check.port}"))
    if "user-agent" not in names:
        headers.append(("User-Agent", "godwit-check"))
    request = h11.Request(method=check.method, target=check.path, headers=headers)
    await secured.write(connection.send(request) or b"")
    status, said = 0, b""
    while len(said) < _MOST_SAID:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await secured.read())
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            said += event.data
        elif not isinstance(event, h11.InformationalResponse):
            break
    if not status:
        raise _Ended("the connection ended before there was an answer")
    text = said[:_MOST_SAID].decode(errors="replace").strip()
    return status, f": {encoded.beginning(text, _MOST_SAID)}" if text else ""
