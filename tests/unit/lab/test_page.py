"""The page about the lab shows commands and calls that exist, and plans that can be."""

import ast
import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from lab import __main__ as command
from lab import plan
from lab.laboratory import Lab
from lab.node import Host

PAGE = Path(__file__).resolve().parents[3] / "docs" / "contributing" / "lab.md"
COMMANDS = re.findall(r"^    python -m lab (.*?)(?:\s+#.*)?$", PAGE.read_text(), re.MULTILINE)


def block(title: str) -> str:
    """Return the indented lines below a heading of the page."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_is_understood(line: str) -> None:
    given = command.parser().parse_args(shlex.split(line))
    assert given.command in line


def test_every_command_is_on_the_page() -> None:
    assert {line.split()[0] for line in COMMANDS} == set(command.COMMANDS)


def test_the_plan_of_the_page_can_be() -> None:
    assert set(plan.Plan.model_validate(tomllib.loads(block("A plan"))).regions) == {"fra", "iad"}


def test_the_calls_of_the_page_exist_and_take_what_they_are_given() -> None:
    calls = [n for n in ast.walk(ast.parse(block("In tests"))) if isinstance(n, ast.Call)]
    modules, made = ("plan", "storm", "cluster"), 0
    for call in calls:
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) not in modules:
            owner = Lab if ast.unparse(call.func.value) == "lab" else Host
            named = {word.arg: None for word in call.keywords if word.arg}
            inspect.signature(getattr(owner, call.func.attr)).bind(None, *call.args, **named)
            made += 1
    assert made > 10
