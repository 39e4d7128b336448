"""The local catalog: this host's edge and DNS read its truth here, and ask for wakes.

A Unix socket speaking lines of JSON (`wire.facts.LocalFrame`). Each reader has a box of facts
that wait, the newest of each only, so a slow reader costs no more than one record per machine;
one that does not read at all is dropped.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from godwit.agent.publisher import Publisher
from godwit.base import errors, tasks
from godwit.wire import facts

logger = logging.getLogger(__name__)

_LONGEST_LINE = 4_096
_WRITE_S = 10.0
_MOST_WAKES = 1_024
_MOST_ANSWERS = 4_096
_WAKE_S = 90.0

Wake = Callable[[str], Awaitable[None]]
"""Starts a machine and returns once it runs; raises a `Failure` when it cannot."""


class _Reader:
    """One connection: what it has not been sent yet."""

    def __init__(self) -> None:
        self.facts: dict[str, facts.Fact] = {}
        self.answers: deque[facts.LocalFrame] = deque()
        self.wakes = 0
        self.something = asyncio.Event()

    def put_fact(self, fact: facts.Fact) -> None:
        self.facts[_key(fact)] = fact
        self.something.set()

    def put_answer(self, frame: facts.LocalFrame) -> None:
        if len(self.answers) < _MOST_ANSWERS:
            self.answers.append(frame)
            self.something.set()

    def take(self) -> list[facts.LocalFrame]:
        taken = [facts.LocalFrame(type="fact", fact=fact) for fact in self.facts.values()]
        taken += self.answers
        self.facts.clear()
        self.answers.clear()
        self.something.clear()
        return taken


class CatalogSocket:
    """The socket and its readers."""

    def __init__(self, path: Path, publisher: Publisher, wake: Wake, owned: tasks.Tasks) -> None:
        self._path = path
        self._publisher = publisher
        self._wake = wake
        self._tasks = owned
        self._readers: set[_Reader] = set()
        self._waking: dict[str, asyncio.Task[str | None]] = {}
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

    def _tell(self, fact: facts.Fact) -> None:
        for reader in self._readers:
            reader.put_fact(fact)

    async def _accept(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        reader = _Reader()
        for fact in self._publisher.all():
            reader.put_fact(fact)
        snapshot = [*reader.take(), facts.LocalFrame(type="synced")]
        self._readers.add(reader)
        sending = self._tasks.spawn(_send(reader, snapshot, sink), name="catalog.send")
        receiving = self._tasks.spawn(self._receive(reader, source), name="catalog.receive")
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._readers.discard(reader)
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
            asked = _wake_of(line)
            if asked is None:
                reader.put_answer(facts.LocalFrame(type="error", message="not a request"))
            elif reader.wakes >= _MOST_WAKES:
                message = "too many wakes wait"
                reader.put_answer(facts.LocalFrame(type="error", id=asked[0], message=message))
            else:
                reader.wakes += 1
                self._tasks.spawn(self._answer_wake(reader, *asked), name="catalog.wake")

    async def _answer_wake(self, reader: _Reader, number: int, machine_id: str) -> None:
        """Answer one wake; several for one machine share one start."""
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


def _wake_of(line: bytes) -> tuple[int, str] | None:
    """Return (id, machine) of a wake; `None` for anything else."""
    try:
        asked = json.loads(line)
    except ValueError:
        return None
    if not isinstance(asked, dict) or asked.get("type") != "wake":
        return None
    number, machine_id = asked.get("id"), asked.get("machine_id")
    if not isinstance(number, int) or not isinstance(machine_id, str):
        return None
    return number, machine_id
