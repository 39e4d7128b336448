"""The local catalog: this host's edge and DNS read its truth here, and ask for wakes.

A Unix socket speaking lines of JSON (`wire.facts.LocalFrame` and `LocalRequest`). Edges are asked
what a machine has in flight; their answer says too that they acted upon every fact before. Each
reader has a box of facts
that wait, the newest of each only, so a slow reader costs no more than one record per machine;
one that does not read at all is dropped.
"""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from godwit.agent.draining import InFlight
from godwit.agent.publisher import Publisher
from godwit.base import errors, tasks
from godwit.wire import facts

logger = logging.getLogger(__name__)

_LONGEST_LINE = 4_096
_WRITE_S = 10.0
_MOST_WAKES = 1_024
_MOST_ANSWERS = 4_096
_WAKE_S = 90.0
_COUNT_S = 1.0
"""An edge that does not answer within this has something else to do."""
_FIRST_WITH_COUNT = 2
_REQUEST: TypeAdapter[Any] = TypeAdapter(facts.LocalRequest)

Wake = Callable[[str], Awaitable[None]]
"""Starts a machine and returns once it runs; raises a `Failure` when it cannot."""
Rest = Callable[[str, bool], Awaitable[None]]
"""Has a machine that is not needed stopped, or suspended; raises a `Failure` when it cannot."""


class _Reader:
    """One connection: what it has not been sent yet."""

    def __init__(self) -> None:
        self.facts: dict[str, facts.Fact] = {}
        self.distances: facts.LocalFrame | None = None
        self.answers: deque[facts.LocalFrame] = deque()
        self.wakes = 0
        self.counts = False
        self.asked: dict[int, asyncio.Future[facts.Counted | None]] = {}
        self.something = asyncio.Event()

    def put_fact(self, fact: facts.Fact) -> None:
        self.facts[_key(fact)] = fact
        self.something.set()

    def put_distances(self, frame: facts.LocalFrame) -> None:
        self.distances = frame
        self.something.set()

    def put_answer(self, frame: facts.LocalFrame) -> None:
        if len(self.answers) < _MOST_ANSWERS:
            self.answers.append(frame)
            self.something.set()

    def ask_count(self, number: int, machine_id: str) -> "asyncio.Future[facts.Counted | None]":
        """Return what will be this reader's answer; `None` when it goes away instead."""
        answer: asyncio.Future[facts.Counted | None] = asyncio.get_running_loop().create_future()
        self.asked[number] = answer
        answer.add_done_callback(lambda _: self.asked.pop(number, None))
        self.put_answer(facts.LocalFrame(type="count", id=number, machine_id=machine_id))
        return answer

    def take_count(self, counted: facts.Counted) -> None:
        answer = self.asked.get(counted.id)
        if answer is not None and not answer.done():
            answer.set_result(counted)

    def leave(self) -> None:
        for answer in tuple(self.asked.values()):
            if not answer.done():
                answer.set_result(None)

    def take(self) -> list[facts.LocalFrame]:
        taken = [facts.LocalFrame(type="fact", fact=fact) for fact in self.facts.values()]
        taken += self.answers
        if self.distances is not None:
            taken.append(self.distances)
        self.facts.clear()
        self.distances = None
        self.answers.clear()
        self.something.clear()
        return taken


class CatalogSocket:
    """The socket and its readers."""

    def __init__(
        self, path: Path, publisher: Publisher, wake: Wake, rest: Rest, owned: tasks.Tasks
    ) -> None:
        self._path = path
        self._publisher = publisher
        self._wake = wake
        self._rest = rest
        self._resting: set[str] = set()
        self._tasks = owned
        self._readers: set[_Reader] = set()
        self._waking: dict[str, asyncio.Task[str | None]] = {}
        self._numbers = itertools.count(1)
        self._distances: facts.LocalFrame | None = None
        publisher.on_fact(self._tell)

    async def run(self) -> None:
        """Serve until cancelled."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(
            self._accept, path=str(self._path), limit=_LONGEST_LINE
        )
        self._path.chmod(0o600)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    def tell_distances(self, hosts: Mapping[str, int], regions: Mapping[str, int]) -> None:
        """Tell everybody how far other hosts and regions are, in microseconds there and back."""
        frame = facts.LocalFrame(type="distances", hosts=dict(hosts), regions=dict(regions))
        if frame != self._distances:
            self._distances = frame
            for reader in self._readers:
                reader.put_distances(frame)

    async def in_flight(self, machine_id: str) -> InFlight:
        """Return what a machine has at this host's edges; implements `draining.Edges`."""
        number = next(self._numbers)
        asked = [r.ask_count(number, machine_id) for r in self._readers if r.counts]
        if not asked:
            return InFlight()
        done, silent = await asyncio.wait(asked, timeout=_COUNT_S)
        for late in silent:
            late.cancel()
        told = [counted for answer in done if (counted := answer.result()) is not None]
        return InFlight(
            requests=sum(each.requests for each in told),
            tunnels=sum(each.tunnels for each in told),
            edges=len(told),
            silent=len(silent),
        )

    def _tell(self, fact: facts.Fact) -> None:
        for reader in self._readers:
            reader.put_fact(fact)

    async def _accept(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        reader = _Reader()
        for fact in self._publisher.all():
            reader.put_fact(fact)
        snapshot = [*reader.take(), facts.LocalFrame(type="synced")]
        if self._distances is not None:
            snapshot.append(self._distances)
        self._readers.add(reader)
        sending = self._tasks.spawn(_send(reader, snapshot, sink), name="catalog.send")
        receiving = self._tasks.spawn(self._receive(reader, source), name="catalog.receive")
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._readers.discard(reader)
            reader.leave()
            for task in (sending, receiving):
                task.cancel()
            sink.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await sink.wait_closed()

    async def _receive(self, reader: _Reader, source: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await source.readline()
            except (ValueError, OSError) as error:
                logger.warning("a catalog reader is dropped: %s", error)
                return
            if not line:
                return
            try:
                request = _REQUEST.validate_json(line)
            except ValidationError:
                reader.put_answer(facts.LocalFrame(type="error", message="not a request"))
            else:
                self._take(reader, request)

    def _take(self, reader: _Reader, request: facts.LocalRequest) -> None:
        if isinstance(request, facts.Stop):
            if request.machine_id not in self._resting:
                self._resting.add(request.machine_id)
                self._tasks.spawn(self._put_to_rest(request), name="catalog.stop")
        elif isinstance(request, facts.Hello):
            reader.counts = request.v >= _FIRST_WITH_COUNT
        elif isinstance(request, facts.Counted):
            reader.take_count(request)
        elif reader.wakes >= _MOST_WAKES:
            message = "too many wakes wait"
            reader.put_answer(facts.LocalFrame(type="error", id=request.id, message=message))
        else:
            reader.wakes += 1
            self._tasks.spawn(self._answer_wake(reader, request), name="catalog.wake")

    async def _put_to_rest(self, request: facts.Stop) -> None:
        try:
            await self._rest(request.machine_id, request.suspend)
        except errors.Failure as failure:
            logger.warning("%s does not rest: %s", request.machine_id, failure.message)
        finally:
            self._resting.discard(request.machine_id)

    async def _answer_wake(self, reader: _Reader, request: facts.Wake) -> None:
        """Answer one wake; several for one machine share one start."""
        number, machine_id = request.id, request.machine_id
        waking = self._waking.get(machine_id)
        if waking is None:
            waking = self._tasks.spawn(self._wake_once(machine_id), name=f"wake.{machine_id}")
            self._waking[machine_id] = waking
            waking.add_done_callback(lambda _: self._waking.pop(machine_id, None))
        try:
            problem = await asyncio.shield(waking)
        finally:
            reader.wakes -= 1
        if problem is None:
            reader.put_answer(facts.LocalFrame(type="woken", id=number))
        else:
            reader.put_answer(facts.LocalFrame(type="error", id=number, message=problem))

    async def _wake_once(self, machine_id: str) -> str | None:
        try:
            async with asyncio.timeout(_WAKE_S):
                await self._wake(machine_id)
        except errors.Failure as failure:
            return failure.message
        except TimeoutError:
            return f"{machine_id} did not start within {_WAKE_S:g} s"
        return None


async def _send(
    reader: _Reader, snapshot: list[facts.LocalFrame], sink: asyncio.StreamWriter
) -> None:
    frames = snapshot
    while True:
        try:
            for frame in frames:
                sink.write(frame.model_dump_json(exclude_none=True).encode() + b"\n")
                async with asyncio.timeout(_WRITE_S):
                    await sink.drain()
        except TimeoutError:
            logger.warning("a catalog reader does not read and is dropped")
            sink.transport.abort()
            return
        except OSError:
            return
        await reader.something.wait()
        frames = reader.take()


def _key(fact: facts.Fact) -> str:
    return f"{fact.kind}:{facts.subject('-', fact)}"
