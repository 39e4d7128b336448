"""Time that jumps: when every task waits, the clock goes on to the next timer at once.

`VirtualLoop` makes asyncio's own timers virtual; `FakeClock` shows the same time to code that
takes a `Clock`. Hours of restart pauses pass in milliseconds, in the right order.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_START_MS = 1_790_000_000_000
_HANG_S = 10.0


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: it tells the loop that the time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(_HANG_S)
            if not ready:
                raise RuntimeError("every task waits and no timer is set: this is a deadlock")
            return ready
        self.jumped += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps. For code without threads and sockets."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.jumped


class FakeClock:
    """The clock of the running loop, seen from the year 2026.

    Attributes:
        skew_ms: Added to Unix time only: set it to make the wall clock jump.
    """

    def __init__(self) -> None:
        self.skew_ms = 0

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return _START_MS + int(self.monotonic() * 1000) + self.skew_ms

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Return after that many virtual seconds."""
        await asyncio.sleep(seconds)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario to its end in virtual time.

    What goes wrong in a callback, where asyncio would only log it, fails the scenario.
    """
    troubles: list[Mapping[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: troubles.append(context))
        result = runner.run(scenario)
    if troubles:
        raise AssertionError(f"trouble in a callback: {troubles[0]}")
    return result
