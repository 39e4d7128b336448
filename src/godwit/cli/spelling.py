"""Spellings of options that scripts written for flyctl use, brought to ours before parsing.

--ha=false            → --no-ha               a flag with a value
--wait-lock           → --wait-lock=30m       a value that may be left out
--db                  → --db=any              the same
--remote-only, …      → left out, with a word  choices among what is not here
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WAIT_LOCK = "30m"
"""How long `--wait-lock` waits when nobody says."""

_VALUES = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_OPTIONAL: Mapping[str, tuple[str, str]] = {
    "--wait-lock": (WAIT_LOCK, r"[0-9][0-9a-zµ.]*"),
    "--db": ("any", r"[a-z]+"),
}
_FLAGS = (
    "--remote-only",
    "--local-only",
    "--depot",
    "--buildkit",
    "--nixpacks",
    "--recreate-builder",
    "--push",
    "--wg",
    "--https-failover",
)
_WITH_VALUE = (
    "--depot-scope",
    "--builder-pool",
    "--buildkit-addr",
    "--buildkit-image",
    "--buildpacks-docker-host",
    "--buildpacks-volume",
    "--compression",
    "--compression-level",
    "--lease-timeout",
    "--deploy-retries",
)
_BUILDERS = {**dict.fromkeys(_FLAGS, 0), **dict.fromkeys(_WITH_VALUE, 1)}
_ADD_ONS = ("--no-db", "--no-redis", "--no-object-storage", "--no-github-workflow")
_DNS_CHECKS = {"--dns-checks": 0}
_MEANINGLESS: Mapping[str, Mapping[str, int]] = {
    "deploy": {**_BUILDERS, **_DNS_CHECKS, "--now": 0},
    "launch": {**_BUILDERS, **dict.fromkeys(_ADD_ONS, 0)},
    "set": _DNS_CHECKS,
    "import": _DNS_CHECKS,
    "unset": _DNS_CHECKS,
    "status": {"--deployment": 0},
    "clone": {"--volume-requires-unique-zone": 0},
}
"""What means nothing to a command, and how many values each takes."""


def ours(command: Any, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return arguments in our spelling, and the options left out of them.

    Args:
        command: What parses them; its options are looked at.
        given: What was typed after its name.
    """
    kept: list[str] = []
    left_out: list[str] = []
    rest = list(given)
    meaningless = _MEANINGLESS.get(command.name or "", {})
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*kept, argument, *rest], left_out
        if name in meaningless and not _has(command, name):
            left_out.append(name)
            del rest[: 0 if equals else meaningless[name]]
        elif equals and name.startswith("--"):
            kept += _with_value(command, argument, name, value)
        elif name in _OPTIONAL and _has(command, name):
            default, pattern = _OPTIONAL[name]
            said = bool(rest) and re.fullmatch(pattern, rest[0])
            kept.append(f"{name}={rest.pop(0) if said else default}")
        else:
            kept.append(argument)
    return kept, left_out


def _has(command: Any, name: str) -> bool:
    return any(name in getattr(one, "opts", ()) for one in command.params)


def _with_value(command: Any, argument: str, name: str, value: str) -> Iterator[str]:
    """Yield a flag with a value as the flag or its opposite; anything else as it is."""
    flag = next(
        (
            one
            for one in command.params
            if getattr(one, "is_flag", False) and name in (*one.opts, *one.secondary_opts)
        ),
        None,
    )
    wanted = _VALUES.get(value.lower())
    if flag is None or wanted is None:
        yield argument
    elif wanted == (name in flag.opts):
        yield flag.opts[0]
    elif flag.secondary_opts:
        yield flag.secondary_opts[0]
