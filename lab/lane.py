"""One direction of a link between regions: what is held, for how long, and what is lost. Pure.

A packet leaves no earlier than the delay after it came, and never before one that came earlier,
also when the delay has become shorter meanwhile. What does not fit the queue is dropped at its
end, as a router does.
"""

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUEUE_BYTES = 16 * 1024**2
"""What may be on the way at once: 1 Gbit/s for 130 ms."""
LONGEST_DELAY_MS = 10_000.0
_REMEMBERED = 1_024
"""Packets that the medians of a report are about."""


@dataclass(frozen=True)
class Condition:
    """How a direction behaves.

    Attributes:
        delay_ms: From coming in to going out.
        loss: Share of packets that are lost.
        cut: Nothing passes, and what is on the way is lost.

    Raises:
        ValueError: There is no such delay or share.
    """

    delay_ms: float = 0.0
    loss: float = 0.0
    cut: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.delay_ms <= LONGEST_DELAY_MS:
            raise ValueError(f"a delay is within 0..{LONGEST_DELAY_MS:g} ms, not {self.delay_ms}")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"a share of lost packets is within 0..1, not {self.loss}")


@dataclass(frozen=True)
class Report:
    """What became of a direction's packets since it began; times in ms by the relay's clock.

    Attributes:
        refused: The kernel did not take them.
        held_ms: Median of the time between coming in and going out, of the last packets.
        late_ms: Median of how much of that was beyond the delay.
        latest_ms: The longest of it, of the last packets.
    """

    condition: Condition
    passed: int = 0
    lost: int = 0
    cut_off: int = 0
    overflowed: int = 0
    refused: int = 0
    waiting: int = 0
    held_ms: float = 0.0
    late_ms: float = 0.0
    latest_ms: float = 0.0


class Lane:
    """The queue of one direction. Times are seconds of a monotonic clock.

    Args:
        condition: How it behaves to begin with.
        chance: Returns a number from [0, 1) for each packet.
        queue_bytes: The most it holds.
    """

    def __init__(
        self,
        condition: Condition,
        chance: Callable[[], float],
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._chance = chance
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[float, float, bytes]] = deque()
        self._queued = 0
        self._last_due = 0.0
        self._held: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._counts = dict.fromkeys(("passed", "lost", "cut_off", "overflowed", "refused"), 0)
        self.condition = condition

    def change(self, condition: Condition) -> None:
        """Behave differently from the next packet on; a cut loses what is on the way too."""
        self.condition = condition
        if condition.cut:
            self._counts["cut_off"] += len(self._queue)
            self._queue.clear()
            self._queued = 0

    def take(self, packet: bytes, now: float) -> None:
        """Take a packet that came in."""
        if self.condition.cut:
            self._counts["cut_off"] += 1
        elif self.condition.loss and self._chance() < self.condition.loss:
            self._counts["lost"] += 1
        elif self._queued + len(packet) > self._queue_bytes:
            self._counts["overflowed"] += 1
        else:
            self._last_due = max(self._last_due, now + self.condition.delay_ms / 1_000)
            self._queue.append((self._last_due, now, packet))
            self._queued += len(packet)

    @property
    def due(self) -> float | None:
        """Return when the next packet goes out, `None` when none is waiting."""
        return self._queue[0][0] if self._queue else None

    def give(self, now: float) -> bytes | None:
        """Return the next packet that is due, `None` when none is."""
        if not self._queue or self._queue[0][0] > now:
            return None
        due, came, packet = self._queue.popleft()
        self._queued -= len(packet)
        self._counts["passed"] += 1
        self._held.append((now - came, now - due))
        return packet

    def refuse(self) -> None:
        """Count a packet that was given and that the kernel would not have."""
        self._counts["passed"] -= 1
        self._counts["refused"] += 1

    def report(self) -> Report:
        """Return what became of the packets so far."""
        times: dict[str, Any] = {}
        if self._held:
            held, late = (
                [one * 1_000 for one in column] for column in zip(*self._held, strict=True)
            )
            times = {
                "held_ms": statistics.median(held),
                "late_ms": statistics.median(late),
                "latest_ms": max(late),
            }
        return Report(condition=self.condition, waiting=len(self._queue), **self._counts, **times)
