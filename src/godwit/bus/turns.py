"""Whose turn it is: of the few that keep one region's mirror, one works.

Each says every second that it is there; the one with the least name of those heard lately works.
Two that cannot hear each other both do, which harms nothing (`bus.mirror`) and costs traffic;
so nothing here has to be exact, and nothing is kept.
"""

import contextlib
from collections.abc import Callable

import nats.errors
from nats.aio.msg import Msg

from godwit.base import errors
from godwit.base.clock import Clock
from godwit.bus import answering
from godwit.bus.connection import Connection

SAY_S = 1.0
HEARD_S = 4.0
"""Who was not heard for so long is gone."""


class Voices:
    """Who was heard, and when. Pure."""

    def __init__(self, name: str, now_s: float) -> None:
        self._name = name
        self._since_s = now_s
        self._heard: dict[str, float] = {}

    def hear(self, name: str, now_s: float) -> None:
        """Note that somebody is there."""
        if name != self._name:
            self._heard[name] = now_s

    def restart(self, now_s: float) -> None:
        """Listen anew: the bus was away, and what was heard before means nothing."""
        self._since_s = now_s
        self._heard.clear()

    def mine(self, now_s: float) -> bool:
        """Tell whether it is this one's turn; nobody's until it has listened for long enough."""
        if now_s - self._since_s < HEARD_S:
            return False
        there = [name for name, at in self._heard.items() if now_s - at < HEARD_S]
        return all(self._name < name for name in there)


class Turns:
    """One of those that take turns.

    Args:
        home: To the region's own bus.
        subject: Where they hear each other.
        name: This one's.
        told: Called with whether it is this one's turn, when that changes.
    """

    def __init__(
        self,
        home: Connection,
        subject: str,
        name: str,
        clock: Clock,
        told: Callable[[bool], None],
    ) -> None:
        self._home = home
        self._subject = subject
        self._name = name
        self._clock = clock
        self._told = told
        self._voices = Voices(name, clock.monotonic())

    async def run(self) -> None:
        """Say that this one is there, and tell whose turn it is, for ever."""

        async def receive(message: Msg) -> None:
            self._voices.hear(message.data.decode(errors="replace"), self._clock.monotonic())

        await answering.subscribe(self._home, self._subject, receive)
        mine = False
        while True:
            if self._home.up:
                with contextlib.suppress(errors.Failure, nats.errors.Error, OSError):
                    await self._home.require().publish(self._subject, self._name.encode())
            else:
                self._voices.restart(self._clock.monotonic())
            now = self._voices.mine(self._clock.monotonic())
            if now != mine:
                mine = now
                self._told(mine)
            await self._clock.sleep(SAY_S)
