"""Legacy spellings brought to the one form that `model` knows (spec/config-cli.md §1.0).

Works on the plain dictionary a parser returned. What it does not understand it leaves
alone: the model then says what is wrong with it.
"""

import base64
import itertools
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

Table = dict[str, Any]

MOST_VALUES = 100_000
"""Of one document. Aliases of YAML can make few lines into more than any machine holds."""

_LONGEST_NUMBER = 20
_LISTS = ("services", "mounts", "vm", "statics", "files", "metrics", "restart", "machine_checks")
OTHER_NAMES = {"mount": "mounts", "metric": "metrics", "compute": "vm", "computes": "vm"}
"""What sections are called in legacy spelling."""


def normalise(document: Mapping[str, Any]) -> Table:
    """Return a copy of the document in canonical spelling.

    Raises:
        ValueError: It holds more than `MOST_VALUES` values.
    """
    table: Table = _plain(document, itertools.count())
    _rename(table)
    for name in _LISTS:
        if isinstance(table.get(name), dict):
            table[name] = [table[name]]
    _put(table, "env", _one_map(table.get("env")))
    _put(table, "processes", _processes(table.get("processes")))
    _put(table, "checks", _named_checks(table.get("checks")))
    _build(table.get("build"))
    _experimental(table)
    for check in _tables(table.get("checks")):
        _headers(check)
    for service in [*_tables(table.get("services")), *_tables([table.get("http_service")])]:
        _service(service)
    return table


def _plain(value: Any, seen: Iterator[int]) -> Any:
    """Return the value in what JSON knows; a key without a value is as good as not there."""
    if next(seen) > MOST_VALUES:
        raise ValueError(f"has more than {MOST_VALUES} values")
    if isinstance(value, Mapping):
        return {
            str(_text(key)): _plain(one, seen) for key, one in value.items() if one is not None
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one, seen) for one in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _rename(table: Table) -> None:
    for old, new in OTHER_NAMES.items():
        if old not in table:
            continue
        added = table.pop(old)
        present = table.get(new, [])
        table[new] = [
            *(present if isinstance(present, list) else [present]),
            *(added if isinstance(added, list) else [added]),
        ]


def _put(table: Table, name: str, value: Any) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def _one_map(value: Any) -> Any:
    """Turn an array of tables into one map, and its values into strings."""
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        value = {key: inner for one in value for key, inner in one.items()}
    if isinstance(value, dict):
        return {key: _text(inner) for key, inner in value.items()}
    return value


def _processes(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
        value = {str(one["name"]): one.get("command", "") for one in value}
    return None if value == {} else value


def _named_checks(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
        return {str(one["name"]): {k: v for k, v in one.items() if k != "name"} for one in value}
    return value


def _build(build: Any) -> None:
    if not isinstance(build, dict):
        return
    if "build_target" in build:
        build.setdefault("build-target", build.pop("build_target"))
    if isinstance(build.get("args"), dict):
        build["args"] = {key: _text(value) for key, value in build["args"].items()}


def _experimental(table: Table) -> None:
    experimental = table.get("experimental")
    if not isinstance(experimental, dict):
        return
    if "kill_timeout" in experimental:
        table.setdefault("kill_timeout", experimental.pop("kill_timeout"))
    if "metrics_port" in experimental:
        metrics: Table = {"port": experimental.pop("metrics_port")}
        if "metrics_path" in experimental:
            metrics["path"] = experimental.pop("metrics_path")
        table.setdefault("metrics", [metrics])


def _service(service: Table) -> None:
    limits = service.get("concurrency")
    if isinstance(limits, str):
        soft, _, hard = limits.partition(",")
        service["concurrency"] = {
            "type": "requests",
            "soft_limit": _whole(soft.strip()),
            "hard_limit": _whole(hard.strip()),
        }
    for table in (service, *_tables(service.get("ports"))):
        for key in ("internal_port", "port", "start_port", "end_port"):
            if key in table:
                table[key] = _whole(table[key])
    for name in ("checks", "http_checks"):
        for check in _tables(service.get(name)):
            _headers(check)


def _headers(check: Table) -> None:
    headers = check.get("headers")
    if isinstance(headers, list) and all(
        isinstance(one, dict) and "name" in one for one in headers
    ):
        headers = {str(one["name"]): one.get("value", "") for one in headers}
    if isinstance(headers, dict):
        headers = {key: _text(value) for key, value in headers.items()}
    _put(check, "headers", headers)


def _tables(value: Any) -> list[Table]:
    """Return the tables in a list or in a map of tables."""
    if isinstance(value, dict):
        value = list(value.values())
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _whole(value: Any) -> Any:
    """Return a number that was written as a string; anything else as it is."""
    digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    return int(value) if digits and len(value) < _LONGEST_NUMBER else value


def _text(value: Any) -> Any:
    """Return a scalar as a string; tables and lists as they are, for the model to refuse."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return value
