"""Writing fly.toml: new, or changed in place with its comments and order kept."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import tomlkit
import yaml
from tomlkit import TOMLDocument
from tomlkit.items import Table

from godwit.appconfig import normalise

_BREAKS = frozenset("\x85\u2028\u2029\ufeff")
"""What YAML takes for the end of a line, or for nothing, when it is not escaped."""
SECTIONS = (
    "experimental",
    "build",
    "deploy",
    "env",
    "processes",
    "http_service",
    "services",
    "checks",
    "machine_checks",
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
    for key, value in _ordered(document).items():
        if _is_section(value):
            if len(made.body) > 0:
                made.add(tomlkit.nl())
            made.add(tomlkit.key(key), _section(value))
        else:
            made.add(tomlkit.key(key), _value(value))
    return tomlkit.dumps(made).rstrip("\n") + "\n"


def as_format(document: Mapping[str, Any], suffix: str) -> str:
    """Return the text of a new file in the format that goes with a suffix such as `.json`."""
    ordered = _ordered(document)
    if suffix == ".json":
        return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"
    if suffix in (".yaml", ".yml"):
        readable = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True)
        if _BREAKS.isdisjoint(readable):
            return readable
        return yaml.safe_dump(ordered, sort_keys=False)  # which escapes them
    return new(document)


def rewritten(text: str, document: Mapping[str, Any]) -> str:
    """Return a TOML file's text made to say a document, with comments and order where it can.

    Sections that say the same already stay as they are, in whatever spelling. In others only
    the keys that differ are touched; lists of tables that differ are written anew.

    Args:
        text: The file now; valid TOML.
        document: What it shall say, in canonical spelling.
    """
    made = tomlkit.parse(text)
    before = normalise.normalise(made.unwrap())
    for name in dict.fromkeys((*before, *document)):
        if before.get(name) == document.get(name):
            continue
        _forget_other_names(made, name)
        if document.get(name) is None:
            made.pop(name, None)
        elif isinstance(made.get(name), dict) and isinstance(document[name], dict):
            _merge(made[name], document[name])
        elif name not in made and not _is_section(document[name]):
            _add_at_the_top(made, name, document[name])
        else:
            _replace(made, name, document[name])
    return tomlkit.dumps(made)


def _ordered(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with plain values first, then the sections in their usual order."""
    known = {name: place for place, name in enumerate(SECTIONS)}
    names = sorted(
        document,
        key=lambda name: (_is_section(document[name]), known.get(name, len(known))),
    )
    found = {name: document[name] for name in names}
    return {name: value for name, value in found.items() if value not in ({}, [], None)}


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or _is_tables(value)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _forget_other_names(made: TOMLDocument, name: str) -> None:
    """Take out what a section is called in legacy spelling: it is written anew."""
    for old in normalise.OTHER_NAMES:
        if normalise.OTHER_NAMES[old] == name:
            made.pop(old, None)
    experimental = made.get("experimental")
    moved = {"kill_timeout": ("kill_timeout",), "metrics": ("metrics_port", "metrics_path")}
    if isinstance(experimental, dict):
        for old in moved.get(name, ()):
            experimental.pop(old, None)


def _merge(table: Any, wanted: Mapping[str, Any]) -> None:
    for key in [key for key in table if key not in wanted]:
        del table[key]
    for key, value in wanted.items():
        if key in table and _same(table[key], value):
            continue
        if isinstance(table.get(key), dict) and isinstance(value, dict):
            _merge(table[key], value)
        else:
            _replace(table, key, value)


def _same(present: Any, wanted: Any) -> bool:
    plain = _unwrapped(present)
    return type(plain) is type(wanted) and bool(plain == wanted)


def _add_at_the_top(made: TOMLDocument, name: str, value: Any) -> None:
    """Add a plain value after the last of them, not behind the comment of the first section."""
    plain = [key for key, one in made.items() if not _is_section(_unwrapped(one))]
    if plain:
        made._insert_after(plain[-1], tomlkit.key(name), _value(value))  # noqa: SLF001
    else:
        made.add(tomlkit.key(name), _value(value))


def _unwrapped(item: Any) -> Any:
    return item.unwrap() if hasattr(item, "unwrap") else item


def _replace(table: Any, key: str, value: Any) -> None:
    """Set a key; a section that takes the place of something else goes to the end."""
    if _is_section(value):
        table.pop(key, None)
        table.add(tomlkit.key(key), _section(value))
    else:
        table[key] = _value(value)


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
    """Return a table: its plain values first, because what follows a header belongs to it."""
    made = tomlkit.table()
    for key, inner in sorted(value.items(), key=lambda item: _is_section(item[1])):
        if inner is not None:
            made.add(tomlkit.key(key), _section(inner) if _is_section(inner) else _value(inner))
    return made


def _value(value: Any) -> Any:
    return tomlkit.item(copy.deepcopy(value))
