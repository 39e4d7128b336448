"""Ignore files: which paths of a context are left out, by Docker's rules. Pure.

A later pattern beats an earlier one, `!` takes back, `*` and `?` stop at a slash, `**` does
not; a pattern that matches a directory matches all below it.

Source: moby/patternmatcher, patternmatcher.go and ignorefile.go.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from posixpath import normpath

from godwit.base import errors

_TO_ESCAPE = frozenset(".+()|{}$^")


@dataclass(frozen=True)
class _Rule:
    negated: bool
    matches: re.Pattern[str]


class Ignore:
    """The rules of one ignore file."""

    def __init__(self, rules: Iterable[_Rule] = ()) -> None:
        self._rules = tuple(rules)

    @property
    def takes_back(self) -> bool:
        """Tell whether something below an ignored directory may be taken back."""
        return any(rule.negated for rule in self._rules)

    def ignores(self, path: str) -> bool:
        """Tell whether a path, relative and with slashes, is left out."""
        parts = path.split("/")
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        ignored = False
        for rule in self._rules:
            if rule.negated == ignored and any(rule.matches.fullmatch(one) for one in above):
                ignored = not rule.negated
        return ignored


def parse(text: str, name: str = ".dockerignore") -> Ignore:
    """Return the rules of an ignore file.

    Raises:
        Failure: `invalid_argument`, naming the line that is no pattern.
    """
    rules = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip()
        if not pattern:
            raise errors.invalid(f"{name}, line {number}: '!' needs a pattern after it")
        pattern = normpath(pattern).lstrip("/")
        if pattern in ("", "."):
            continue
        try:
            rules.append(_Rule(negated, re.compile(_expression(pattern), re.DOTALL)))
        except re.error as error:
            raise errors.invalid(
                f"{name}, line {number}: {line.strip()!r} is not a pattern: {error}"
            ) from error
    return Ignore(rules)


def _expression(pattern: str) -> str:
    """Return a regular expression for a pattern."""
    found: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern[at : at + 1] == "*":
            at += 2 if pattern[at + 1 : at + 2] == "/" else 1
            found.append(".*" if at >= len(pattern) else "(?:.*/)?")
        elif char == "*":
            found.append("[^/]*")
        elif char == "?":
            found.append("[^/]")
        elif char == "[":
            inside, at = _class(pattern, at)
            found.append(inside)
        elif char == "\\" and at < len(pattern):
            found.append(re.escape(pattern[at]))
            at += 1
        elif char in _TO_ESCAPE or char == "\\":
            found.append(re.escape(char))
        else:
            found.append(char)
    return "".join(found)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """Return a character class, which Go begins with `^` or `!`… as a regular one."""
    end = pattern.find("]", at + 1)
    if end < 0:
        raise re.error("a '[' without ']'")
    inside = pattern[at:end]
    negated = inside.startswith("^")
    members = inside[1:] if negated else inside
    escaped = members.replace("[", r"\[").replace("&&", r"&\&")
    if not escaped:
        raise re.error("an empty '[]'")
    return f"[{'^/' if negated else ''}{escaped}]", end + 1
