"""Revisions of this host's records: they grow for ever, across restarts, without a write each."""

import logging

from godwit.agent.machines.store import Store
from godwit.base import tasks

logger = logging.getLogger(__name__)

_BLOCK = 1_000_000


class Revisions:
    """Hands out revisions from a block whose end is on disk before its first one is used."""

    def __init__(self, store: Store, owned: tasks.Tasks) -> None:
        self._store = store
        self._tasks = owned
        self._next = 0
        self._ceiling = 0
        self._extending = False

    async def load(self) -> None:
        """Take the next block; call once, before `take`."""
        self._next = int(await self._store.fact("revision") or 0) + 1
        await self._extend()

    def take(self) -> int:
        """Return the next revision."""
        self._next += 1
        if not self._extending and self._ceiling - self._next < _BLOCK // 2:
            self._extending = True
            self._tasks.spawn(self._extend(), name="revisions")
        return self._next

    async def _extend(self) -> None:
        try:
            ceiling = self._next + _BLOCK
            await self._store.set_fact("revision", str(ceiling))
            self._ceiling = ceiling
        finally:
            self._extending = False
