"""Where in a file a key is: for messages that name the line.

Parsers of TOML forget lines, so this scans for table headers and keys; it knows multi-line
strings and arrays. A key it cannot find has no line, never a wrong one on purpose.
"""

import re
from collections.abc import Mapping

import yaml

from godwit.appconfig.problems import Path

Places = Mapping[Path, int]

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*")
_HEADER = re.compile(r"\s*(\[\[?)(.*?)\]\]?\s*(?:#.*)?$")
_PART = re.compile(_KEY)
_TOKEN = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|#|[\[\]{}]')
_DEEPEST = 64


def of_toml(text: str) -> Places:
    """Return the line of each key and table header of a TOML text."""
    places: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    inside = ""
    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not inside and depth == 0:
            header = _HEADER.match(line)
            if header is not None:
                table = _enter(_parts(header[2]), counts, is_list=header[1] == "[[")
                places.setdefault(table, number)
                continue
            key = _DOTTED.match(line)
            if key is not None and line[key.end() : key.end() + 1] == "=":
                places.setdefault((*table, *_parts(key[1])), number)
                line = line[key.end() + 1 :]  # noqa: PLW2901
            elif not line.strip() or line.lstrip().startswith("#"):
                continue
        inside, depth = _scan(line, inside, depth)
    return places


def of_yaml(text: str) -> Places:
    """Return the line of each key of a YAML or JSON text."""
    places: dict[Path, int] = {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return places
    if root is not None:
        _walk(root, (), places, set())
    return places


def find(places: Places, path: Path) -> int | None:
    """Return the line of a key, or of the nearest table around it."""
    for length in range(len(path), 0, -1):
        for candidate in _spellings(path[:length]):
            if candidate in places:
                return places[candidate]
    return None


def _spellings(path: Path) -> list[Path]:
    """Return the path and the legacy forms it may have been written in."""
    found = [path]
    singular = {"mounts": ("mount",), "metrics": ("metric",), "vm": ("compute", "computes")}
    head = str(path[0])
    if len(path) > 1 and path[1] == 0:
        found.append((head, *path[2:]))
    for other in singular.get(head, ()):
        found.append((other, *path[1:]))
        if len(path) > 1 and path[1] == 0:
            found.append((other, *path[2:]))
    return found


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _enter(parts: Path, counts: dict[Path, int], *, is_list: bool) -> Path:
    """Return the path of a table header, with the index of each list it is in."""
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        last = position == len(parts) - 1
        if last and is_list:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _scan(line: str, inside: str, depth: int) -> tuple[str, int]:
    """Return the open multi-line string, if any, and the depth of brackets after a line."""
    position = 0
    while position < len(line):
        if inside:
            end = line.find(inside, position)
            if end < 0:
                return inside, depth
            position, inside = end + 3, ""
            continue
        token = _TOKEN.search(line, position)
        if token is None or token[0] == "#":
            break
        position = token.end()
        if token[0] in ('"""', "'''"):
            inside = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth = max(0, depth - 1)
    return inside, depth


def _walk(node: yaml.Node, path: Path, places: dict[Path, int], seen: set[int]) -> None:
    if len(path) > _DEEPEST or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            places.setdefault(here, key.start_mark.line + 1)
            _walk(value, here, places, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places.setdefault((*path, index), value.start_mark.line + 1)
            _walk(value, (*path, index), places, seen)
