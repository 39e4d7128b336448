"""How often what may be asked (spec/machines.md §1.1): token buckets in memory, bounded.

Each action has a bucket for each thing it is about: a machine, or the app whose machines are
made or listed. Tokens of one organization share it; another organization cannot empty it. Waits
are long and come several at once: they are counted like reads of a machine.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from godwit.base import errors
from godwit.base.clock import Clock

MOST_BUCKETS = 20_000
_MACHINE = "/v1/apps/{app_name}/machines/{machine_id}"
_LIMITED = ("/v1/apps/{app_name}/machines", "/x/v1/apps/{app_name}/machines")
_READS = frozenset({("GET", _MACHINE), ("GET", f"{_MACHINE}/wait"), ("GET", f"/x{_MACHINE}")})
_DELETION = ("DELETE", "/v1/apps/{app_name}")


@dataclass(frozen=True)
class Rate:
    """So many a second, and so many at once after a rest."""

    per_s: float
    burst: int


ACTION = Rate(1.0, 3)
READ = Rate(5.0, 10)
DELETION = Rate(100 / 60, 100)
MEANINGS: tuple[tuple[str, Rate], ...] = (
    ("each action on one machine; making and listing the machines of one app", ACTION),
    ("reading one machine, and waiting for it", READ),
    ("deleting apps, by one token", DELETION),
)
"""What is counted together, for the reference."""


class TooMany(errors.Failure):
    """The same was asked too often.

    Attributes:
        wait_s: When to ask again.
    """

    def __init__(self, rate: Rate, wait_s: float) -> None:
        self.wait_s = max(1, math.ceil(wait_s))
        super().__init__(
            "rate_limited",
            f"too many requests: {rate.per_s:.3g} a second for this, {rate.burst} at once",
            hint=f"ask again in {self.wait_s} s",
        )


def rate(method: str, path: str) -> Rate | None:
    """Return how often a route may be asked; `None` when it is not limited."""
    if (method, path) == _DELETION:
        return DELETION
    if (method, path) in _READS:
        return READ
    return ACTION if path.startswith(_LIMITED) else None


class Limits:
    """The buckets. The one that was not asked for longest makes room for a new one.

    Args:
        clock: Whose monotonic time fills them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, allowed: Rate) -> None:
        """Count one request.

        Raises:
            TooMany: It is one too many.
        """
        now_s = self._clock.monotonic()
        left, at_s = self._buckets.pop(key, (float(allowed.burst), now_s))
        left = min(float(allowed.burst), left + (now_s - at_s) * allowed.per_s)
        refused = left < 1
        self._buckets[key] = (left if refused else left - 1, now_s)
        while len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if refused:
            raise TooMany(allowed, (1 - left) / allowed.per_s)

    def __len__(self) -> int:
        return len(self._buckets)
