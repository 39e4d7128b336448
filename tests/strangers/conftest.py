"""Where the programs of others are that the edge is tried with."""

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def stranger(name: str) -> Path:
    """Return a program that `tools/setup.sh strangers` installs."""
    program = _ROOT / "build" / "strangers" / "bin" / name
    assert program.exists(), f"{program} is missing: tools/setup.sh strangers"
    return program
