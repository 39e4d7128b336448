"""The stream of facts in memory: control's `Facts` port; keeps the newest of each subject."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from godwit.base import errors
from godwit.wire import facts


class MemoryFacts:
    """A stream.

    Attributes:
        away: Whether publishing fails.
        published: Everything that was ever published, in order.
        newest: The newest record of each subject.
    """

    def __init__(self, region: str = "lcl") -> None:
        self.away = False
        self.published: list[facts.Fact] = []
        self.newest: dict[str, facts.Fact] = {}
        self._region = region
        self._watchers: list[tuple[frozenset[str], asyncio.Queue[facts.Fact]]] = []

    async def publish(self, fact: facts.Fact) -> None:
        """Publish a record."""
        if self.away:
            raise errors.Failure("unavailable", "the bus is away")
        self.published.append(fact)
        self.newest[facts.subject(self._region, fact)] = fact
        for kinds, queue in self._watchers:
            if fact.kind in kinds:
                queue.put_nowait(fact)

    async def watch(self, kinds: Sequence[str]) -> AsyncIterator[facts.Fact]:
        """Yield every newest record of these kinds, then every change, for ever."""
        queue: asyncio.Queue[facts.Fact] = asyncio.Queue()
        for fact in list(self.newest.values()):
            if fact.kind in kinds:
                queue.put_nowait(fact)
        entry = (frozenset(kinds), queue)
        self._watchers.append(entry)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(entry)
