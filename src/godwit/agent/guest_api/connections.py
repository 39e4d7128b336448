"""Connections to `/.fly/api`, taken off each running machine's control channel and served.

A machine has few at once and few a second: what is not taken waits in the guest's own kernel, and
costs this host nothing. A process that does not speak, or does not listen, is hung up on.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from godwit.agent import ports
from godwit.agent.guest_api import http
from godwit.agent.guest_api.answers import Answers, refused
from godwit.agent.machines.driver import Driver
from godwit.base import clock, errors, log, tasks
from godwit.wire import guest_api

logger = logging.getLogger(__name__)

CREDIT = 16_384
"""Bytes a guest may send before somebody reads them."""
AT_ONCE = 4
_PER_S = 10.0
_PIECES_FREE = 16
"""A guest that speaks in more and smaller pieces than any honest one pays for them in time."""
_BURST = 20
_REQUEST_S = 10.0
_TAKE_S = 10.0
_OWED_S = 2.0
_AGAIN_S = 1.0
_AGAIN_MOST_S = 60.0


@dataclass(eq=False)
class _Served:
    """One boot of a machine."""

    driver: Driver
    boot: str
    task: asyncio.Task[None] | None = None
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    talks: set[asyncio.Task[None]] = field(default_factory=set)
    tokens: float = _BURST
    counted_s: float = 0.0


class Connections:
    """The connections of all machines here.

    Args:
        vmm: Leads to their shims.
        answers: What is said to them.
        the_clock: Paces them.
        owned: Owns the tasks.
    """

    def __init__(
        self, vmm: ports.Vmm, answers: Answers, the_clock: clock.Clock, owned: tasks.Tasks
    ) -> None:
        self._vmm = vmm
        self._answers = answers
        self._clock = the_clock
        self._tasks = owned
        self._served: dict[str, _Served] = {}
        self._owed: dict[str, set[asyncio.Future[None]]] = {}
        """By machine, what is done once a change has its answer; also of one that is ending."""

    def follow(self, driver: Driver, boot: str | None) -> None:
        """Serve a machine from now on; `boot` names its present start, `None` ends it."""
        machine_id = driver.machine.machine_id
        served = self._served.get(machine_id)
        if served is not None and served.boot == boot:
            return
        if served is not None:
            del self._served[machine_id]
            if served.task is not None:
                served.task.cancel()
        if boot is None:
            return
        served = _Served(driver, boot)
        self._served[machine_id] = served
        served.task = self._tasks.spawn(self._serve(served), name=f"api.{machine_id}")

    async def answered(self, machine_id: str) -> None:
        """Return once a machine that asked for its own end has its answer, or soon anyway."""
        owed = self._owed.get(machine_id)
        if owed:
            await asyncio.wait(tuple(owed), timeout=_OWED_S)

    async def _serve(self, served: _Served) -> None:
        machine_id, again_s = served.driver.machine.machine_id, _AGAIN_S
        while True:
            session: ports.ShimSession | None = None
            try:
                session = await self._vmm.connect(machine_id)
                while session is not None:
                    await self._take(served, session)
                    again_s = _AGAIN_S
            except (OSError, errors.Failure) as error:
                # Gone for a moment, or of a release that has no such socket.
                logger.debug("machine %s: %s", machine_id, error)
            finally:
                # Whatever ends this, an answer that is owed is sent first.
                await self.answered(machine_id)
                for talk in tuple(served.talks):
                    talk.cancel()
                if session is not None:
                    await session.close()
            await self._clock.sleep(again_s)
            again_s = min(again_s * 2, _AGAIN_MOST_S)

    async def _take(self, served: _Served, session: ports.ShimSession) -> None:
        """Take one connection, once there is a place and it is time."""
        await served.places.acquire()
        try:
            await self._pace(served)
            # For as long as it takes: most machines never have a word to say.
            stream = await session.accept(CREDIT)
        except BaseException:
            served.places.release()
            raise
        machine_id = served.driver.machine.machine_id
        talk = self._tasks.spawn(self._talk(served, stream), name=f"api.{machine_id}.talk")
        served.talks.add(talk)
        talk.add_done_callback(lambda ended: _let_go(served, ended))

    async def _pace(self, served: _Served) -> None:
        now_s = self._clock.monotonic()
        served.tokens = min(_BURST, served.tokens + (now_s - served.counted_s) * _PER_S)
        served.counted_s = now_s
        if served.tokens < 1:
            await self._clock.sleep((1 - served.tokens) / _PER_S)
        served.tokens -= 1

    async def _talk(self, served: _Served, stream: ports.ExecStream) -> None:
        """Serve one connection; whatever the guest does, it ends."""
        machine = served.driver.machine
        with log.bound(**machine.about):
            try:
                await self._exchange(served, stream)
            except (OSError, errors.Failure, http.Silent) as error:
                logger.debug("a request of machine %s was lost: %r", machine.machine_id, error)
            finally:
                served.tokens -= stream.pieces // _PIECES_FREE
                with contextlib.suppress(OSError, errors.Failure):
                    await stream.close(within_s=_TAKE_S)

    async def _exchange(self, served: _Served, stream: ports.ExecStream) -> None:
        machine_id = served.driver.machine.machine_id
        owed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        head_only = False
        try:
            try:
                async with asyncio.timeout(_REQUEST_S):
                    request = await http.read_request(machine_id, _reader(stream), stream.write)
                head_only = request.method == "HEAD"
                answer = await self._answers.answer(
                    served.driver.machine, request, lambda: self._owe(machine_id, owed)
                )
            except http.NotHttp as error:
                answer = refused(error.status, f"invalid_argument: {error}")
            except TimeoutError:
                answer = refused(408, "deadline_exceeded: the request came too slowly")
            await self._say(stream, answer, head_only=head_only)
        finally:
            owed.set_result(None)
        async with asyncio.timeout(_TAKE_S):
            await stream.wait()

    def _owe(self, machine_id: str, owed: asyncio.Future[None]) -> None:
        """Keep a machine from ending until that is done."""
        of_machine = self._owed.setdefault(machine_id, set())
        of_machine.add(owed)

        def paid(_: asyncio.Future[None]) -> None:
            of_machine.discard(owed)
            if not of_machine and self._owed.get(machine_id) is of_machine:
                del self._owed[machine_id]

        owed.add_done_callback(paid)

    async def _say(
        self, stream: ports.ExecStream, answer: guest_api.GuestAnswer, *, head_only: bool
    ) -> None:
        async with asyncio.timeout(_TAKE_S):
            await stream.write(http.written(answer, head_only=head_only))
            await stream.write_eof()


def _reader(stream: ports.ExecStream) -> http.Read:
    async def read() -> bytes:
        chunk = await stream.read()
        return b"" if chunk is None else chunk.data

    return read


def _let_go(served: _Served, talk: asyncio.Task[None]) -> None:
    served.talks.discard(talk)
    served.places.release()
