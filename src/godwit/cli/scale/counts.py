"""How many machines are wanted, as people write it: `3`, `web=3 worker=1`, `+2`. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from godwit.base import errors

MOST = 1_000
_FORM = re.compile(r"(?:([^=\s]+)=)?([+-]?)([0-9]{1,9})")


@dataclass(frozen=True)
class Count:
    """A number of machines, or how many more or fewer.

    Attributes:
        relative: Whether it is added to what there is.
    """

    number: int
    relative: bool = False

    def target(self, now: int, group: str) -> int:
        """Return how many machines a group shall have that has `now`.

        Raises:
            Failure: Fewer than none, or more than an app can have.
        """
        wanted = now + self.number if self.relative else self.number
        if wanted < 0:
            raise errors.invalid(f"{-self.number} machines cannot go: {group} has {now}")
        if wanted > MOST:
            raise errors.invalid(f"{group}: an app has at most {MOST} machines, got {wanted}")
        return wanted


def parse(words: Sequence[str], default: str) -> dict[str, Count]:
    """Return the wish of each group.

    Args:
        words: What was typed: numbers with or without a group.
        default: The group that a number alone is for.

    Raises:
        Failure: A word is no such thing, or a group is named twice.
    """
    found: dict[str, Count] = {}
    for word in words:
        match = _FORM.fullmatch(word)
        if match is None:
            raise errors.invalid(
                f'expected a count such as 3, +1, -1 or worker=2, got "{word}"',
                hint="see `godwit scale count --help`",
            )
        group = match[1] or default
        if group in found:
            raise errors.invalid(f"{group} is there twice: {' '.join(words)}")
        number = -int(match[3]) if match[2] == "-" else int(match[3])
        found[group] = Count(number, relative=bool(match[2]))
    return found
