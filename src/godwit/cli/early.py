"""Options given before the words of a command: `godwit -a hello --json status`.

The groups take them off the front and put them by; the command at the end reads them as if they
had been given after its name, and refuses those that it does not have.
"""

from collections.abc import Sequence

_WITH_VALUE = ("--access-token", "-t", "--app", "-a", "--config", "-c", "--org", "-o")
_FLAGS = ("--debug", "--verbose", "--json", "-j", "--yes", "-y")


def taken(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options at the front that many commands have, and what is after them."""
    early: list[str] = []
    rest = list(given)
    while rest:
        name, equals, _ = rest[0].partition("=")
        if name in _FLAGS or (equals and name in _WITH_VALUE):
            early.append(rest.pop(0))
        elif name in _WITH_VALUE and len(rest) > 1:
            early += [rest.pop(0), rest.pop(0)]
        else:
            break
    return early, rest
