"""Time that jumps: when every task waits, the clock goes on to the next timer at once.

`VirtualLoop` makes asyncio's own timers virtual; `FakeClock` shows the same time to code that
takes a `Clock`. Hours of restart pauses pass in milliseconds, in the right order. While a thread
of an executor works, a database's for example, no time passes, however busy the machine is.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_START_MS = 1_790_000_000_000
_HANG_S = 10.0


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: it tells the loop that the time has come.

    Attributes:
        jumped: Seconds that have passed.
        threads: How many pieces of work executors have; their end comes first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.threads:
            return super().select(None)
        if timeout is None:
            ready = super().select(_HANG_S)
            if not ready:
                raise RuntimeError("every task waits and no timer is set: this is a deadlock")
            return ready
        self.jumped += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps. For code without sockets, and threads only in executors."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.jumped

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Have a thread work; until it has, no time passes."""
        self._jumping.threads += 1
        working = super().run_in_executor(executor, func, *args)
        working.add_done_callback(self._worked)
        return working

    def _worked(self, _: "asyncio.Future[Any]") -> None:
        self._jumping.threads -= 1


class FakeClock:
    """The clock of the running loop, seen from the year 2026.

    Args:
        start_ms: Unix time when the loop began.

    Attributes:
        skew_ms: Added to Unix time only: set it to make the wall clock jump.
    """

    def __init__(self, start_ms: int = _START_MS) -> None:
        self._start_ms = start_ms
        self.skew_ms = 0

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return self._start_ms + int(self.monotonic() * 1000) + self.skew_ms

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
