"""What is wrong with a file: each mistake with its place, all of them together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from godwit.appconfig import sizes
from godwit.base import errors

Severity = Literal["error", "warning"]
Path = tuple[str | int, ...]
MISSING = "is required"


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
        path: Where in the document: `("services", 0, "internal_port")`.
        message: What was expected and what is there.
        line: Line in the file, 1 for the first; `None` when it is not known.
    """

    path: Path
    message: str
    severity: Severity = "error"
    line: int | None = None

    def told(self, file: str) -> str:
        """Return the mistake as one line: `fly.toml:3: services[0].port: expected …`."""
        place = f"{file}:{self.line}" if self.line else file
        where = f"{dotted(self.path)}: " if self.path else ""
        return f"{place}: {where}{self.message}"


def dotted(path: Path) -> str:
    """Return a path as people write it: `services[0].internal_port`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def failure(file: str, found: Iterable[Problem]) -> errors.Failure:
    """Return the failure that tells every error of a file."""
    wrong = [problem for problem in found if problem.severity == "error"]
    count = "1 mistake" if len(wrong) == 1 else f"{len(wrong)} mistakes"
    lines = "".join(f"\n  {problem.told(file)}" for problem in wrong)
    return errors.invalid(f"{file} has {count}:{lines}")


def from_validation(error: ValidationError) -> list[Problem]:
    """Return what a model said, in our own words."""
    return [
        Problem(_location(item["loc"]), _sentence(item["type"], item["msg"], item))
        for item in error.errors(include_url=False)
    ]


def _location(loc: Iterable[str | int]) -> Path:
    return tuple("build-target" if part == "build_target" else part for part in loc)


_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "missing": lambda _: MISSING,
    "string_type": lambda e: f"expected a string, {sizes.got(e['input'])}",
    "bool_type": lambda e: f"expected true or false, {sizes.got(e['input'])}",
    "float_type": lambda e: f"expected a number, {sizes.got(e['input'])}",
    "float_parsing": lambda e: f"expected a number, {sizes.got(e['input'])}",
    "list_type": lambda e: f"expected a list, {sizes.got(e['input'])}",
    "dict_type": lambda e: f"expected a table, {sizes.got(e['input'])}",
    "model_type": lambda e: f"expected a table, {sizes.got(e['input'])}",
    "model_attributes_type": lambda e: f"expected a table, {sizes.got(e['input'])}",
}


def _sentence(kind: str, message: str, item: Any) -> str:
    if kind == "literal_error":
        choices = str(item["ctx"]["expected"]).replace("'", '"')
        return f"expected {choices}, {sizes.got(item['input'])}"
    known = _SENTENCES.get(kind)
    return known(item) if known else message
