"""Writing fly.toml: new, or changed in place with its comments and order kept."""

from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.items import Table

SECTIONS = (
    "experimental",
    "build",
    "deploy",
    "env",
    "processes",
    "http_service",
    "services",
    "checks",
    "mounts",
    "vm",
    "statics",
    "files",
    "metrics",
    "restart",
)


def new(document: Mapping[str, Any], *, comment: str = "") -> str:
    """Return the text of a new file: top-level keys first, then the sections in their order."""
    made = tomlkit.document()
    for line in comment.splitlines():
        made.add(tomlkit.comment(line))
    if comment:
        made.add(tomlkit.nl())
    for key, value in document.items():
        if key not in SECTIONS:
            made.add(key, tomlkit.item(value))
    for name in SECTIONS:
        if document.get(name):
            made.add(tomlkit.nl())
            made.add(name, _section(document[name]))
    return tomlkit.dumps(made).rstrip("\n") + "\n"


def changed(text: str, updates: Mapping[str, Any]) -> str:
    """Return a file's text with values set, everything else as it was.

    Args:
        text: The file now.
        updates: Dotted keys to values: `{"app": "x", "http_service.internal_port": 80}`.
    """
    document = tomlkit.parse(text)
    for dotted, value in updates.items():
        _set(document, dotted.split("."), value)
    return tomlkit.dumps(document)


def _set(document: TOMLDocument, keys: list[str], value: Any) -> None:
    here: Any = document
    for key in keys[:-1]:
        if key not in here:
            here.add(key, tomlkit.table())
        here = here[key]
    here[keys[-1]] = value


def _section(value: Any) -> Any:
    if isinstance(value, list):
        tables = tomlkit.aot()
        for one in value:
            tables.append(_table(one))
        return tables
    return _table(value)


def _table(value: Mapping[str, Any]) -> Table:
    made = tomlkit.table()
    for key, inner in value.items():
        is_tables = isinstance(inner, list) and inner and isinstance(inner[0], dict)
        made.add(key, _section(inner) if is_tables or isinstance(inner, dict) else inner)
    return made
