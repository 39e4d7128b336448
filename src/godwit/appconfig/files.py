"""Finding and reading the file: fly.toml, fly.json or fly.yaml (spec/config-cli.md §1.0)."""

import copy
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from godwit.appconfig import characters, check, lines, normalise, problems
from godwit.appconfig.model import Config
from godwit.appconfig.problems import Problem
from godwit.base import errors

NAMES = ("fly.toml", "fly.json", "fly.yaml")
_TOML_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_APP_LINE = re.compile(r"""^\s*["']?app["']?\s*[=:]\s*["']?([a-z0-9][a-z0-9-]*)""", re.MULTILINE)
_LARGEST = 1_000_000


@dataclass(frozen=True)
class Loaded:
    """A file that was read, understood as far as it goes.

    Attributes:
        path: Where it is.
        document: What it says, in canonical spelling.
        config: The same, typed; `None` when it has mistakes that leave nothing to go by.
        found: Every mistake and every warning, each with its line.
    """

    path: FilePath
    document: dict[str, Any]
    config: Config | None
    found: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def checked(self) -> Config:
        """Return the config.

        Raises:
            Failure: `invalid_argument`, with every mistake in it.
        """
        if self.config is None or any(one.severity == "error" for one in self.found):
            raise problems.failure(self.name, self.found)
        return self.config

    def warnings(self) -> list[Problem]:
        """Return what is doubtful but does not stop anything."""
        return [one for one in self.found if one.severity == "warning"]


def find(directory: FilePath, named: str | None = None) -> FilePath | None:
    """Return the config file of a directory, or `None` when there is none.

    Args:
        directory: The working directory.
        named: What `--config` said: a file, or a directory with a fly.toml.

    Raises:
        Failure: `not_found` when one was named and is not there.
    """
    if named is not None:
        for candidate in (directory / named, directory / named / NAMES[0]):
            if candidate.is_file():
                return candidate
        raise errors.not_found(
            f"there is no config file at {named}",
            hint="leave --config out to use the fly.toml of the working directory",
        )
    return next((directory / name for name in NAMES if (directory / name).is_file()), None)


def load(path: FilePath) -> Loaded:
    """Read a file and everything that is wrong with it.

    Raises:
        Failure: It cannot be read at all.
    """
    text = _text(path)
    try:
        raw = _parsed(path, text)
    except SyntaxProblem as error:
        return Loaded(path, {}, None, (error.problem,))
    return understand(path, raw, text)


def understand(path: FilePath, raw: Any, text: str = "") -> Loaded:
    """Return what a parsed document says, and every mistake in it."""
    if raw is None:  # an empty file of YAML
        raw = {}
    if not isinstance(raw, dict):
        return Loaded(path, {}, None, (Problem((), "expected a table at the top"),))
    try:
        document = normalise.normalise(raw)
        config, found = _understood(document)
    except RecursionError:
        return Loaded(path, {}, None, (Problem((), "is nested too deeply"),))
    except ValueError as error:
        return Loaded(path, {}, None, (Problem((), str(error)),))
    places = lines.of_toml(text) if path.suffix == ".toml" else lines.of_yaml(text)
    placed = tuple(
        Problem(one.path, one.message, one.severity, one.line or lines.find(places, one.path))
        for one in found
    )
    ordered = sorted(placed, key=lambda one: one.line or 0)
    return Loaded(path, document, config, tuple(ordered))


def _understood(document: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Return the config and its mistakes; with mistakes of form there is no config.

    The rules still run over the rest of such a file, so that one run tells everything.
    """
    unspeakable = characters.problems(document)
    if unspeakable:
        return None, unspeakable
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        wrong = problems.from_validation(error)
        return None, [*wrong, *_rules_without(document, wrong)]
    return config, check.problems(config)


def _rules_without(document: dict[str, Any], wrong: list[Problem]) -> list[Problem]:
    rest = copy.deepcopy(document)
    taken = [_take_out(rest, one) for one in wrong]
    try:
        config = Config.model_validate(rest)
    except ValidationError:
        return []
    return [
        found
        for found in check.problems(config)
        if not any(
            path[: len(found.path)] == found.path or found.path[: len(path)] == path
            for path in taken
        )
    ]


def _take_out(document: dict[str, Any], problem: Problem) -> problems.Path:
    """Remove the value that is wrong, or the section that lacks one; return its path."""
    path = problem.path
    if problem.message == problems.MISSING:
        path = path[:-1]
    while path and isinstance(path[-1], int):
        path = path[:-1]
    here: Any = document
    for key in path[:-1]:
        try:
            here = here[key]
        except (KeyError, IndexError, TypeError):
            return path
    if path and isinstance(here, dict):
        here.pop(path[-1], None)
    return path


def app_name(path: FilePath) -> str | None:
    """Return the app a file is for, also when the rest of the file is wrong."""
    text = _text(path)
    try:
        raw = _parsed(path, text)
    except SyntaxProblem:
        found = _APP_LINE.search(text)
        return found[1] if found else None
    name = raw.get("app") if isinstance(raw, dict) else None
    return name if isinstance(name, str) and name else None


class SyntaxProblem(Exception):
    """A text that is not TOML, JSON or YAML at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _text(path: FilePath) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise errors.invalid(f"{path.name} is larger than 1 MB: that is no config file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise errors.invalid(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.invalid(f"{path.name} is not UTF-8 text") from error


def _parsed(path: FilePath, text: str) -> Any:
    try:
        if path.suffix == ".json":
            return json.loads(text)
        if path.suffix in (".yaml", ".yml"):
            return yaml.safe_load(text)
        return tomllib.loads(text)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} (column {error.colno})"
        raise SyntaxProblem(Problem((), message, line=error.lineno)) from error
    except tomllib.TOMLDecodeError as error:
        raise SyntaxProblem(_toml_problem(str(error), text)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise SyntaxProblem(Problem((), f"not YAML: {error.problem}", line=line)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SyntaxProblem(Problem((), f"cannot be read: {error}")) from error


def _toml_problem(message: str, text: str) -> Problem:
    place = _TOML_PLACE.search(message)
    if place is None:
        end = " (at end of document)"
        return Problem(
            (), f"not TOML: {message.removesuffix(end)}", line=max(1, len(text.splitlines()))
        )
    reason = message[: place.start()]
    return Problem((), f"not TOML: {reason} (column {place[2]})", line=int(place[1]))
