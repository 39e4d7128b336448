"""A wrong wall clock for a node: a small library that its programs are started with."""

from pathlib import Path

from lab import namespaces

_SOURCE = Path(__file__).with_name("clock.c")
_BUILT = "clock.so"
_AHEAD = "clock-ahead"


def set_ahead(directory: Path, seconds: int) -> None:
    """Have programs that are started in a node from now on see a clock that is so much ahead.

    Args:
        directory: The node's.
        seconds: Negative for a clock that is behind; 0 for the right one.

    Raises:
        Failure: There is no C compiler, which the Rust programs need too.
    """
    library = directory / _BUILT
    if seconds and not library.exists():
        scratch = library.with_suffix(".new")
        flags = ("-shared", "-fPIC", "-O2", "-Wall", "-Werror")
        namespaces.run(["gcc", *flags, "-o", str(scratch), str(_SOURCE)])
        scratch.rename(library)
    (directory / _AHEAD).write_text(f"{seconds}\n")


def environment(directory: Path) -> dict[str, str]:
    """Return what a node's programs are started with; nothing where the clock is right."""
    try:
        seconds = int((directory / _AHEAD).read_text())
    except FileNotFoundError:
        return {}
    if not seconds:
        return {}
    return {"LD_PRELOAD": str(directory / _BUILT), "LAB_CLOCK_AHEAD_S": str(seconds)}
