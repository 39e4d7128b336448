"""A release's definition: fly.toml as JSON, read again whenever a deploy needs it."""

from pathlib import Path
from typing import Any

from godwit.appconfig import files
from godwit.appconfig.model import Config

_NAME = Path("fly.toml")


def understand(definition: dict[str, Any]) -> Config:
    """Return what a definition says.

    Raises:
        Failure: `invalid_argument`, with every mistake in it.
    """
    return files.understand(_NAME, definition).checked()


def canonical(definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition in canonical spelling, as releases keep it."""
    return files.understand(_NAME, definition).document
