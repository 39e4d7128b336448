"""The local base images of this machine: built by `make` ahead of time, or on first use."""

from pathlib import Path

from godwit.base import settings
from godwit.images import bases


def directory() -> Path:
    """Return where they are kept; shared with the platform that runs here."""
    return settings.from_process().paths.cache / "bases"


async def base(name: str) -> bases.Base:
    """Return one, built now if it is not there."""
    return await bases.Bases(directory()).ensure(name, print)
