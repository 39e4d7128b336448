"""Who may boot now: a few guests at a time, in the order in which they came.

A boot takes a processor of its own for seconds and has a deadline. When a host comes back, all its
machines boot at once and no template is good any more: without turns none of them would be up in
time. Copies of templates need none. Kept in memory: what an agent that was killed left booting
goes on without one.
"""

import asyncio
import os

_AT_LEAST = 2


class Turns:
    """The turns of one host."""

    def __init__(self, at_once: int | None = None) -> None:
        """Take how many may boot at once; one for each of the host's processors if not given."""
        if at_once is None:
            at_once = max(_AT_LEAST, os.cpu_count() or 1)
        self._free = asyncio.Semaphore(at_once)
        self._held: dict[str, object] = {}

    async def take(self, name: str) -> None:
        """Wait for a turn; return at once if that guest has one."""
        if name in self._held:
            return
        await self._free.acquire()
        self._held[name] = object()

    def held(self, name: str) -> object | None:
        """Return the turn a guest has."""
        return self._held.get(name)

    def give_back(self, name: str, turn: object | None = None) -> None:
        """Let the next one begin; nothing happens if that guest has no turn.

        Args:
            name: Whose.
            turn: This one only, not one that the guest has taken since.
        """
        held = self._held.get(name)
        if held is not None and turn in (None, held):
            del self._held[name]
            self._free.release()
