"""Which images a host lets go of, in which order and why: a pure plan.

    in use     a machine here has it, in whatever state          ──► never
    pinned     a release that may be rolled back to needs it     ──► never
    fresh      used within `fresh_ms`: an operation may be at it ──► never
    old        not used for `age_ms`                             ──► always
    otherwise  only while the disk is fuller than `high`, the longest unused first, down to `low`

Carried out by `keeper.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Reason = Literal["old", "space"]
Hold = Literal["in use", "pinned", "fresh", ""]


@dataclass(frozen=True)
class Resting:
    """One image at rest.

    Attributes:
        used_at_ms: When a machine last was started from it or had it.
        users: Machines here that have it, or are about to.
        pinned: A release that may be rolled back to needs it.
    """

    digest: str
    size_bytes: int
    used_at_ms: int
    users: int = 0
    pinned: bool = False


@dataclass(frozen=True)
class Space:
    """A file system."""

    total_bytes: int
    free_bytes: int

    @property
    def used(self) -> float:
        """Return the share that is taken, 0 to 1."""
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 1.0


@dataclass(frozen=True)
class Rules:
    """When an image goes.

    Attributes:
        high: Share of the disk from which images go for space.
        low: Share of the disk at which that ends.
        age_ms: Unused for so long, an image goes in any case.
        fresh_ms: Used within that time, it stays in any case.
    """

    high: float = 0.85
    low: float = 0.75
    age_ms: int = 14 * 86_400_000
    fresh_ms: int = 600_000


@dataclass(frozen=True)
class Removal:
    """An image that is to go, and why."""

    digest: str
    size_bytes: int
    reason: Reason
    sentence: str


@dataclass(frozen=True)
class Plan:
    """What goes, in this order.

    Attributes:
        short_bytes: What then is still to be freed to reach the low mark, with nothing left that
            may go; 0 when the disk is not too full.
    """

    removals: tuple[Removal, ...]
    short_bytes: int = 0

    @property
    def freed_bytes(self) -> int:
        """Return what the removals free."""
        return sum(one.size_bytes for one in self.removals)


def hold(image: Resting, rules: Rules, now_ms: int) -> Hold:
    """Return what keeps an image, empty when nothing does."""
    if image.users:
        return "in use"
    if image.pinned:
        return "pinned"
    # A clock that was set back makes an image young, never old.
    return "fresh" if now_ms - image.used_at_ms < rules.fresh_ms else ""


def plan(images: Iterable[Resting], space: Space, rules: Rules, now_ms: int) -> Plan:
    """Return what is to go."""
    free_to_go = [image for image in images if not hold(image, rules, now_ms)]
    free_to_go.sort(key=lambda image: (image.used_at_ms, image.digest))
    removals = []
    left = _excess(space, rules)
    for image in free_to_go:
        unused_ms = now_ms - image.used_at_ms
        if unused_ms >= rules.age_ms:
            removals.append(_removal(image, "old", f"not used for {unused_ms // 86_400_000} days"))
        elif left > 0:
            removals.append(_removal(image, "space", f"the disk is {space.used:.0%} full"))
        else:
            break
        left -= image.size_bytes
    return Plan(tuple(removals), max(0, left))


def _excess(space: Space, rules: Rules) -> int:
    """Return how much is to be freed for space: nothing below the high mark."""
    if space.used < rules.high:
        return 0
    return space.total_bytes - space.free_bytes - int(space.total_bytes * rules.low)


def _removal(image: Resting, reason: Reason, sentence: str) -> Removal:
    return Removal(image.digest, image.size_bytes, reason, sentence)
