"""Tells the world what this host owns: facts to local readers at once, to the bus when it is up.

The bus never holds up a machine: what changed is marked, the newest record of each mark is
published, some at once and none waiting for another, and what could not be published stays
marked, behind all others. A record that the bus can never take is said in the log and let go, so
that it holds up nobody else's. After every reconnection everything is published again.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Protocol

from godwit.base import clock, errors, tasks
from godwit.wire import facts

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0
_AT_ONCE = 32


class Stream(Protocol):
    """The region's stream of facts (`bus.facts.FactStream`)."""

    async def ensure(self) -> None:
        """Make the stream if it is not there."""

    async def publish(self, fact: facts.Fact) -> None:
        """Publish a record; returns once the bus has it.

        Raises:
            Failure: `invalid_argument` when it can never be published as it is.
        """


Listener = Callable[[facts.Fact], None]


class Publisher:
    """This host's facts, and who is told of them."""

    def __init__(self, the_clock: clock.Clock) -> None:
        self._clock = the_clock
        self._facts: dict[str, facts.Fact] = {}
        self._dirty: dict[str, None] = {}  # in the order they were marked
        self._wake = asyncio.Event()
        self._listeners: list[Listener] = []

    def on_fact(self, listener: Listener) -> None:
        """Call a listener with every new fact."""
        self._listeners.append(listener)

    def all(self) -> list[facts.Fact]:
        """Return every fact this host owns."""
        return list(self._facts.values())

    def tell(self, key: str, fact: facts.Fact) -> None:
        """Take in a record; one that says what was said already is not told again."""
        before = self._facts.get(key)
        if before is not None and _same(before, fact):
            return
        self._facts[key] = fact
        self._dirty[key] = None
        self._wake.set()
        for listener in self._listeners:
            listener(fact)

    def drop(self, key: str) -> None:
        """Forget a record whose tombstone was told long ago."""
        self._facts.pop(key, None)
        self._dirty.pop(key, None)

    async def tell_everything(self) -> None:
        """Mark every fact: the bus came (back) up and may have lost some."""
        self._dirty.update(dict.fromkeys(self._facts))
        self._wake.set()

    async def run(self, stream: Stream, owned: tasks.Tasks) -> None:
        """Publish what is marked, for ever."""
        ensured = False
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if not ensured:
                    await stream.ensure()
                    ensured = True
                await self._publish_marked(stream, owned)
            except (errors.Failure, OSError) as failure:
                logger.debug("facts wait for the bus: %s", failure)
                ensured = False
                await self._clock.sleep(_PAUSE_S)
                self._wake.set()

    async def _publish_marked(self, stream: Stream, owned: tasks.Tasks) -> None:
        """Publish until nothing is marked: so much at once, and of each key one record.

        Raises:
            Failure: Something was not taken, and is marked still; OSError likewise.
        """
        under_way: set[str] = set()
        failures: list[errors.Failure | OSError] = []

        async def publish(key: str) -> None:
            try:
                if failure := await self._publish_one(stream, key):
                    failures.append(failure)
            finally:
                under_way.discard(key)
                self._wake.set()

        while self._dirty or under_way:
            self._wake.clear()
            if failures and not under_way:
                raise failures[0]
            marked = (key for key in self._dirty if key not in under_way)
            room = 0 if failures else _AT_ONCE - len(under_way)
            for key in list(itertools.islice(marked, room)):
                under_way.add(key)
                owned.spawn(publish(key), name=f"publish.{key}")
            await self._wake.wait()

    async def _publish_one(self, stream: Stream, key: str) -> errors.Failure | OSError | None:
        # The mark goes as the record is taken: one that is told from now on marks it anew.
        self._dirty.pop(key, None)
        fact = self._facts.get(key)
        if fact is None:
            return None
        try:
            await stream.publish(fact)
        except (errors.Failure, OSError) as failure:
            if isinstance(failure, errors.Failure) and failure.code == "invalid_argument":
                logger.error("a fact cannot be published: %s", failure)  # noqa: TRY400
                return None
            self._dirty[key] = None
            return failure
        return None


def _same(one: facts.Fact, other: facts.Fact) -> bool:
    """Tell whether two records differ in nothing but their revision."""
    return type(one) is type(other) and one == other.model_copy(update={"revision": one.revision})
