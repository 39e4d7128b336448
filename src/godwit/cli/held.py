"""Leases of several machines, held by one command while it changes them."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from godwit.base import errors
from godwit.base.clock import Clock
from godwit.cli import together
from godwit.client import leases
from godwit.client.api import Api

_PROLONG_S = leases.TTL_S / 3
_GOODBYE_S = 5.0


class Held:
    """The leases of some machines of an app, until it is left.

    A lease is prolonged when its nonce is asked for. One that ended meanwhile is taken again,
    unless somebody else has it.

    Args:
        api: How to ask.
        app: Whose machines.
        clock: Time.
        description: What it is for, told to whoever is kept waiting.
    """

    def __init__(self, api: Api, app: str, clock: Clock, *, description: str) -> None:
        self._api = api
        self._app = app
        self._clock = clock
        self._description = description
        self._nonces: dict[str, tuple[str, float]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await together.each(list(self._nonces), self._release)

    async def take(self, machine_ids: Iterable[str]) -> None:
        """Take the leases of machines.

        Raises:
            Failure: `conflict` when somebody else has one.
        """
        await together.each(list(machine_ids), self._acquire)

    async def nonce(self, machine_id: str) -> str:
        """Return what shows that a machine's lease is held, prolonging it when it is time.

        Raises:
            Failure: `conflict` when it ended and somebody else has it.
        """
        nonce, at = self._nonces[machine_id]
        if self._clock.monotonic() - at > _PROLONG_S:
            return await self._acquire(machine_id, nonce)
        return nonce

    def forget(self, machine_id: str) -> None:
        """Hear that a machine is gone, and its lease with it."""
        self._nonces.pop(machine_id, None)

    async def _acquire(self, machine_id: str, nonce: str = "") -> str:
        at = self._clock.monotonic()
        nonce = await self._api.leases.acquire(
            self._app, machine_id, description=self._description, nonce=nonce
        )
        self._nonces[machine_id] = (nonce, at)
        return nonce

    async def _release(self, machine_id: str) -> None:
        """Give a lease back; one that cannot be given back ends by itself."""
        with suppress(errors.Failure):
            await self._api.leases.release(self._app, machine_id, self._nonces[machine_id][0])
