"""`machine_config`: a raw machine config that the rest of the file is laid over (§1.17).

It is JSON in the file itself, or the name of a `.json` file; a deploy puts the file's content in
its place before it sends the config anywhere.
"""

import json
from collections.abc import Mapping
from typing import Any

from godwit.appconfig.model import Config

Json = dict[str, Any]


def named(config: Config) -> str:
    """Return what the file says: `experimental.machine_config` wins, empty for nothing."""
    experimental = config.experimental.machine_config if config.experimental else None
    return experimental or config.machine_config or ""


def is_inline(text: str) -> bool:
    """Tell whether it is the JSON itself, not the name of a file."""
    return text.lstrip().startswith("{")


def of_document(document: Mapping[str, Any]) -> Json:
    """Return the raw config of a file that was not checked; an empty one where there is none."""
    experimental = document.get("experimental")
    wins = experimental.get("machine_config") if isinstance(experimental, Mapping) else None
    text = wins or document.get("machine_config")
    try:
        found = parse(text) if isinstance(text, str) and text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def parse(text: str) -> Json:
    """Return the raw config; an empty one for the name of a file.

    Raises:
        ValueError: It is neither; says what was expected.
    """
    if not is_inline(text):
        if not text.endswith(".json"):
            raise ValueError(f'expected JSON or the name of a .json file, got "{text}"')
        return {}
    try:
        found: Json = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    return found


def base(config: Config) -> Json:
    """Return the raw config of a checked file."""
    text = named(config)
    return parse(text) if text else {}
