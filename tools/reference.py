"""Writes the reference pages from the code they are about: `python -m tools.reference`.

`docs/reference/cli.md` from the command line's own tree, `api.md` from `contracts/openapi.json`,
`lifecycle.md` from the tables of `godwit.agent.machines`. `tests/unit/test_reference.py` fails
when a page is not what this writes.
"""

import ast
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer import core

from godwit.agent.machines import events, lifecycle, operations, steps, work
from godwit.api import limits, problems
from godwit.base import errors
from godwit.cli import exits, registry, tree
from godwit.cmd import cli
from godwit.durable import runner

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
COMMAND = ".venv/bin/python -m tools.reference"
"""How a person writes the pages again."""

_WRITTEN = "Written by `python -m tools.reference`; not by hand.\n"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


_API_INTRODUCTION = """\
Every route; requests and answers are described in
[contracts/openapi.json](../../contracts/openapi.json), which a host serves at `/openapi.json`. A
token is sent as `Authorization: Bearer TOKEN`. Scope `public` needs none, `token` any, `basic`
takes it as the password of basic auth. What is marked `or own` a machine may ask of itself
without a token, at its `/.fly/api`.
"""

_PROBLEMS_INTRODUCTION = """\
A refusal is `{"error": "CODE: what is wrong", "status": …, "hint": "what to do"}`; `hint` is left
out where there is nothing to do. Every answer has a `fly-request-id`. A path that no route takes
is answered with plain text before the token is looked at.
"""

_RATES_INTRODUCTION = """\
Requests beyond these are refused with 429, unless `api.rate_limits` is off. Tokens of one
organization share what they have; `godwit` waits and asks again by itself.
"""

_TABLE_INTRODUCTION = """\
Rows are stored states, columns requests; a cell is the operation that is run, or why none is.
`wake` is a start for a request that waits at the edge, `replace` an update with `skip_launch`,
`kill` a destroy with `force`. A request that comes during an operation is judged against the state
that operation leads to; only a `start` during `update` or `replace` is refused, where a `wake`
waits for the end.
"""

_STATES_INTRODUCTION = """\
Beside the state stands a sentence: what the host is doing with the machine right now, or why it
rests. A step that takes longer than it should says `stuck at` and its name, and goes on trying.
"""

_STEPS_INTRODUCTION = """\
A step is tried until it is done, with pauses that grow; each attempt has its deadline. Past "given
up" the operation ends and what it left is taken down.
"""

_EVENTS_INTRODUCTION = """\
The entries of a machine's history, the newest first; `status` is the state reached.
"""


@dataclass(frozen=True)
class Command:
    """One command of the program, or a group of them.

    Attributes:
        path: What is typed: `godwit machine run`.
        aliases: Other names for its last word.
        section: The heading of `godwit --help` it stands under.
    """

    path: str
    aliases: tuple[str, ...]
    section: str
    click: Any

    @property
    def is_group(self) -> bool:
        """Tell whether it only holds others."""
        return isinstance(self.click, core.TyperGroup)


def entries() -> tuple[registry.Entry, ...]:
    """Return what stands at the top of the program."""
    return (*registry.ENTRIES, *cli.HOST_ENTRIES)


def commands() -> list[Command]:
    """Return every command and group, in the order of `godwit --help`."""
    root = tree.Root(entries())
    found: list[Command] = []
    for entry in entries():
        top = Command(
            f"godwit {entry.name}",
            entry.aliases,
            entry.section,
            root.get_command(None, entry.name),
        )
        found += _with_children(top)
    return found


def _with_children(command: Command) -> Iterator[Command]:
    yield command
    if not command.is_group:
        return
    for name, child in command.click.commands.items():
        if not child.hidden:
            others = tuple(alias for alias, verb in tree.VERBS.items() if verb == name)
            others = tuple(alias for alias in others if alias not in command.click.commands)
            path = f"{command.path} {name}"
            yield from _with_children(Command(path, others, command.section, child))


_BEFORE = (
    "These, `-a`, `-c`, `-o`, `-j` and `-y` may also stand before the command: "
    "`godwit -a hello --json status`. `godwit --version` shows the program's version.\n"
)


def cli_page() -> str:
    """Return the reference of the command line."""
    found = commands()
    parts = ["# The command line\n", _WRITTEN, *_contents(found), *_exit_codes()]
    parts += [
        "## Every command\n",
        _table(
            ("option", "what"),
            [*_everywhere(found), ("`-h`, `--help`", "Show what the command takes.")],
        ),
        _BEFORE,
    ]
    parts += [_one_command(command) for command in found]
    return _page(parts)


def _contents(found: Sequence[Command]) -> list[str]:
    sections = dict.fromkeys(entry.section for entry in entries())
    rows = []
    for section in sections:
        links = [
            f"[{one.path.removeprefix('godwit ')}](#{one.path.replace(' ', '-')})"
            for one in found
            if one.section == section and not one.is_group
        ]
        rows.append((section, ", ".join(links)))
    return [_table(("", "commands"), rows)]


def _exit_codes() -> list[str]:
    """Return the exit codes with the words that `cli/exits.py` has under each."""
    body = ast.parse(inspect.getsource(exits)).body
    rows = []
    for number, node in enumerate(body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            rows.append((f"`{node.value.value}`", _words_under(body, number) or "Done."))
    said = (exits.__doc__ or "").partition(". ")[2].strip()
    return ["## Exit codes\n", _table(("code", "meaning"), rows), said + "\n"]


def _words_under(body: Sequence[ast.stmt], number: int) -> str:
    after = body[number + 1] if number + 1 < len(body) else None
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        return str(after.value.value)
    return ""


def _everywhere(found: Sequence[Command]) -> list[tuple[str, str]]:
    leaf = next(one for one in found if not one.is_group)
    context = core.TyperCommand.context_class(leaf.click, info_name=leaf.path)
    return [_option(p, context) for p in leaf.click.params if p.name in tree.EVERYWHERE]


def _one_command(command: Command) -> str:
    click = command.click
    said = [f"## {command.path}\n", inspect.cleandoc(click.help or "") + "\n"]
    if command.aliases:
        said.append(f"Also: {', '.join(f'`{alias}`' for alias in command.aliases)}.\n")
    if command.is_group:
        return "\n".join(said)
    context = core.TyperCommand.context_class(click, info_name=command.path)
    shown = [
        p
        for p in click.params
        if not getattr(p, "hidden", False) and p.name not in tree.EVERYWHERE
    ]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    usage = [command.path, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)]
    said.append(f"    {' '.join(usage)}\n")
    if arguments:
        rows = [(f"`{_argument(p)}`", p.help or "") for p in arguments]
        said.append(_table(("argument", "what"), rows))
    if options:
        said.append(_table(("option", "what"), [_option(p, context) for p in options]))
    examples = [line.strip() for line in (click.epilog or "").splitlines()]
    examples = [line for line in examples if line not in ("", "\b", "Examples:")]
    if examples:
        said.append("Examples:\n\n" + "".join(f"    {line}\n" for line in examples))
    return "\n".join(said)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    many = "..." if parameter.nargs == -1 and not name.endswith("...") else ""
    name = name if name.startswith("[") or parameter.required else f"[{name}]"
    return name + many


def _option(parameter: Any, context: Any) -> tuple[str, str]:
    names, said = parameter.get_help_record(context)
    spelled = names.replace(" / ", ", ").split(", ")
    return ", ".join(f"`{name}`" for name in spelled), said


def api_page() -> str:
    """Return the table of the API's routes."""
    document = json.loads((ROOT / "contracts" / "openapi.json").read_text())
    sections: dict[str, list[tuple[str, ...]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                row = _route(method, path, operation)
                sections.setdefault(operation["tags"][0], []).append(row)
    parts = ["# The API\n", _WRITTEN, _API_INTRODUCTION, *_problems(), *_rates()]
    for tag, rows in sections.items():
        parts += [f"## {tag}\n", _table(("method", "path", "scope", "what"), rows)]
    return _page(parts)


def _problems() -> list[str]:
    of_codes = ((errors.STATUS[code], code, text) for code, text in problems.MEANINGS.items())
    rows = [
        (str(status), f"`{code}`", text)
        for status, code, text in sorted((*of_codes, *problems.APART))
    ]
    return ["## Errors\n", _PROBLEMS_INTRODUCTION, _table(("status", "code", "means"), rows)]


def _rates() -> list[str]:
    rows = [
        (said, f"{rate.per_s * 60:g} a minute" if rate.per_s % 1 else f"{rate.per_s:g} a second",
         str(rate.burst))
        for said, rate in limits.MEANINGS
    ]  # fmt: skip
    return ["## How often\n", _RATES_INTRODUCTION, _table(("what", "rate", "at once"), rows)]


def _route(method: str, path: str, operation: dict[str, Any]) -> tuple[str, ...]:
    said = operation.get("description") or operation["summary"]
    scope = f"`{operation['x-godwit-scope']}`"
    scope += " or own" if operation.get("x-godwit-own") else ""
    return method.upper(), f"`{path}`", scope, said.split("\n\n")[0]


def lifecycle_page() -> str:
    """Return the states of a machine, what may be asked in each and what follows."""
    answers = [
        (f"**{state}**", *(_verdict(lifecycle.TABLE[state][r]) for r in lifecycle.REQUESTS))
        for state in lifecycle.STATES
    ]
    courses = [(f"`{kind}`", *_course(kind)) for kind in lifecycle.KINDS]
    drawing = (lifecycle.__doc__ or "").split("\n\n")[1]
    return _page(
        [
            "# A machine's life\n",
            _WRITTEN,
            f"```\n{inspect.cleandoc(drawing)}\n```\n",
            "## States\n",
            _STATES_INTRODUCTION,
            _table(("state", "kind", "means"), [_state(name) for name in lifecycle.MEANINGS]),
            "## What may be asked, and when\n",
            _TABLE_INTRODUCTION,
            _table(("", *(f"`{request}`" for request in lifecycle.REQUESTS)), answers),
            *_refusals(),
            "## Operations\n",
            _table(("operation", "leads to", "shown as", "broken off by", "steps"), courses),
            _on_the_way_down(),
            "## Steps\n",
            _STEPS_INTRODUCTION,
            _table(
                ("step", "says", "one attempt", "stuck after", "given up after"),
                [_step(one) for one in steps.CATALOGUE.values()],
            ),
            "## Events\n",
            _EVENTS_INTRODUCTION,
            _table(("type", "means"), [(f"`{t}`", said) for t, said in events.MEANINGS.items()]),
        ]
    )


def _state(name: str) -> tuple[str, ...]:
    kind = "transient" if name in lifecycle.TRANSIENT else "persistent"
    return f"`{name}`", kind, lifecycle.MEANINGS[name]


def _step(one: runner.Step[work.Work]) -> tuple[str, ...]:
    patience = "never" if one.patience_s is None else f"{one.patience_s:g} s"
    return (
        f"`{one.name}`",
        one.title,
        f"{one.deadline_s:g} s",
        f"{one.stuck_after_s:g} s",
        patience,
    )


def _on_the_way_down() -> str:
    down = [f"`{kind}`" for kind in lifecycle.KINDS if lifecycle.COURSES[kind].tearing_down]
    return f"Of these, {', '.join(down)} are on the way down and run until they are done.\n"


def _verdict(verdict: lifecycle.Verdict) -> str:
    if isinstance(verdict, lifecycle.Run):
        return f"`{verdict.kind}`"
    if isinstance(verdict, lifecycle.Done):
        return "done already"
    return f"refused ({_refused().index(verdict) + 1})"


def _refused() -> list[lifecycle.Refuse]:
    cells = [verdict for row in lifecycle.TABLE.values() for verdict in row.values()]
    return list(dict.fromkeys(one for one in cells if isinstance(one, lifecycle.Refuse)))


def _refusals() -> list[str]:
    rows = [(str(n), f"`{one.code}`", one.sentence) for n, one in enumerate(_refused(), 1)]
    return [_table(("refused", "code", "because"), rows)]


def _course(kind: lifecycle.Kind) -> tuple[str, ...]:
    course = lifecycle.COURSES[kind]
    stronger = [f"`{request}`" for request in lifecycle.REQUESTS if request in course.yields_to]
    return (
        course.target or "–",
        f"`{course.shown}`" if course.shown else "–",
        ", ".join(stronger) or "–",
        ", ".join(operations.OPERATIONS[kind].steps),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    """Return a text on one line, without bars, `<` only in code."""
    pieces = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(
        piece if n % 2 else piece.replace("<", "&lt;") for n, piece in enumerate(pieces)
    )


def _page(parts: Sequence[str]) -> str:
    return "\n".join(parts).rstrip("\n") + "\n"


RENDER: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "api.md": api_page,
    "lifecycle.md": lifecycle_page,
}
"""Each page and what writes it."""


def main() -> int:
    """Write every page; say which ones changed."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, render in RENDER.items():
        path, text = PAGES / name, render()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
