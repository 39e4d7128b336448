"""The documents are true: their commands, links, settings, files and rooms exist.

Commands are held against the program's own tree; nothing is run.
"""

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel
from tools import reference
from typer import core

from godwit.base import settings
from godwit.cli import early, spelling, tree

ROOT = reference.ROOT
SOURCE = ROOT / "src" / "godwit"
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
TITLES = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=TITLES)

IN_WORDS = {
    "paths.programs": "`/usr/lib/godwit`, or `build/programs` in a source tree",
    "control.database": "SQLite in the data directory",
    "host.memory_mb": "all but 1 GB",
    "host.cpus": "all of them",
    "addresses.shared_v4": "none",
    "host.join_address": "`listen.join`, or the address of the first endpoint",
    "listen.join": "nowhere",
    "api.name": "none",
    "host.address": "the one in the mesh",
    "host.uplink": "the interface of the default route",
    "host.dns_upstreams": "those of `/etc/resolv.conf`",
}
"""Defaults that depend on the host: how the operators' table puts them."""


@dataclass(frozen=True)
class Shown:
    """A command that a document shows.

    Attributes:
        whole: As it is typed; in a sentence arguments may be left out.
    """

    line: int
    text: str
    whole: bool


def shown_commands(text: str) -> list[Shown]:
    """Return the commands in indented blocks and in backticks, outside of drawings."""
    found, drawing = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            drawing = not drawing
        if drawing:
            continue
        if re.match(r" {4}\S", line):
            found.append(Shown(number, re.split(r"\s+#", line.strip())[0], True))
        else:
            inside = re.findall(r"`([^`]+)`", line)
            found += [Shown(number, code.strip(), False) for code in inside]
    return [one for one in found if re.match(r"(godwit|make)( |$)", one.text)]


def wrong_with(command: str) -> str | None:
    """Return what is wrong with a `godwit …` or `make …` line; `None` for nothing."""
    words = shlex.split(re.sub(r" > \S+$", "", command))
    if words[0] == "make":
        return wrong_with_make(words[1:])
    if "[OPTIONS]" in words:
        return wrong_with_path(words[1 : words.index("[OPTIONS]")])
    return wrong_with_godwit(words[1:])


def wrong_with_make(words: list[str]) -> str | None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"no target {unknown[0]}" if unknown else None


def wrong_with_path(words: list[str]) -> str | None:
    return None if tuple(words) in known_paths() else f"no command {' '.join(words)}"


@functools.cache
def known_paths() -> frozenset[tuple[str, ...]]:
    """Return every command there is; finding them loads the whole program."""
    return frozenset(tuple(one.path.split()[1:]) for one in reference.commands())


def wrong_with_godwit(words: list[str]) -> str | None:
    """Walk down the tree of commands, then let the command's own parser read the rest."""
    here = tree.Root(reference.entries())
    given, words = early.taken(words)
    while words and words not in (["--version"], ["--help"]) and is_group(here):
        if isinstance(here, tree.ListByDefault) and words[0].startswith("-"):
            words = ["list", *words]
        below = here.get_command(None, words[0])
        if below is None:
            return f"no command {words[0]}"
        here, words = below, words[1:]
    return None if is_group(here) else wrong_with_arguments(here, [*given, *words])


def is_group(command: core.TyperCommand | core.TyperGroup) -> bool:
    return isinstance(command, core.TyperGroup)


def wrong_with_arguments(here: core.TyperCommand, words: list[str]) -> str | None:
    context = here.context_class(here, info_name=here.name, **here.context_settings)
    words, _ = spelling.ours(here, words)
    try:
        values, surplus, _ = here.make_parser(context).parse_args(words)
    except Exception as error:  # noqa: BLE001 - whatever the parser refuses is wrong
        return str(error) or type(error).__name__
    lacking = [p.name for p in here.params if p.required and values.get(p.name) in (None, ())]
    if surplus or lacking:
        return f"too much: {surplus}" if surplus else f"without {', '.join(lacking)}"
    return None


@every_page
def test_every_command_shown_exists_with_the_options_shown(page: Path) -> None:
    shown = shown_commands(page.read_text())
    wrong = [
        (one.line, one.text, said)
        for one in shown
        if (said := wrong_with(one.text)) and (one.whole or not said.startswith("without"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("godwit lanch", "no command lanch"),
        ("godwit machine walk", "no command walk"),
        ("godwit logs --tale", "--tale"),
        ("godwit machine exec", "without"),
        ("godwit version 1 2", "too much"),
        ("make tests", "no target tests"),
    ],
)
def test_a_wrong_command_is_noticed(command: str, wrong: str) -> None:
    assert wrong in (wrong_with(command) or "")


@pytest.mark.parametrize(
    "command",
    [
        "godwit machine exec ID -- ls -l /",
        "godwit m ls -q",
        "godwit -a x --json status",
        "make bench AREA=machine",
    ],
)
def test_a_right_command_passes(command: str) -> None:
    assert wrong_with(command) is None


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not fragment or fragment in anchors(file), target


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_starts_with_the_two_commands() -> None:
    commands = [one.text for one in shown_commands(README.read_text())]
    assert commands[:2] == ["make demo", "make test"]
    assert README.read_text().index("make demo") < README.read_text().index("\n## ")


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            file = (page.parent / target).resolve()
            inside = sorted(file.glob("*.md")) if file.is_dir() else [file]
            todo += [one for one in inside if one in PAGES and one not in reached]
    assert [str(page) for page in PAGES if page not in reached] == []


def documented_settings() -> dict[str, tuple[str, str]]:
    text = (ROOT / "docs" / "operators.md").read_text()
    section = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| `"), "a row is not `setting` | `VARIABLE` | default"
    return {setting: (variable, default) for setting, variable, default in rows}


def known_settings() -> dict[str, object]:
    made = settings.Settings()
    found: dict[str, object] = {}
    for name, value in made:
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": one for key, one in value}
        else:
            found[name] = value
    return found


def written(value: object) -> str:
    """Return a default as the table has it: a list as in its variable."""
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`" if value else "none"
    return f"`{value}`"


def test_the_table_of_settings_has_every_setting_with_its_default() -> None:
    documented = {name: default for name, (_, default) in documented_settings().items()}
    expected = {
        name: IN_WORDS.get(name) or written(value) for name, value in known_settings().items()
    }
    assert documented == expected


def test_every_default_in_words_stands_for_one_that_depends_on_the_host() -> None:
    values = known_settings()
    assert all(values[name] in (None, ()) for name in IN_WORDS if name != "paths.programs")


@pytest.mark.parametrize("name", known_settings())
def test_the_variable_of_a_setting_sets_it(name: str) -> None:
    variable, _ = documented_settings()[name]
    assert variable == "GODWIT_" + name.replace(".", "_").upper()
    words = {
        "host.accelerator": "tcg",
        "host.vmm": "qemu",
        "host.mtu": "1380",
        "listen.mesh": "51821",
        "listen.backhaul": "4284",
        "listen.flycast": "4285",
        "limits.cpu": "on",
        "keep.images_high": "0.5",
        "keep.images_low": "0.25",
        "build.compression": "zstd",
        "control.database": "postgresql://db/godwit",
    }
    if name in ("build.proxies", "build.mounts"):
        # A map: tests/unit/base/test_build_settings.py.
        return
    default = known_settings()[name]
    other = {"host.region": "ams", "host.zone": "00ff", **words}.get(name)
    other = str(not default) if isinstance(default, bool) else other
    other = other or ("/elsewhere" if name.startswith("paths.") else "2000000")
    other = "other" if name in ("instance", "apps_domain") else other
    made = settings.load(None, {variable: other}, {})
    section, _, key = name.rpartition(".")
    found = getattr(getattr(made, section) if section else made, key)
    if isinstance(default, tuple):
        (found,) = found
    assert str(found) == other or float(found) == float(other)


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def named_in_architecture() -> list[str]:
    """Return the files and rooms it names; the data files of a host are the operators' pages'."""
    text = ARCHITECTURE.read_text()
    text = re.sub(r"\n## State and who owns it\n.*?(?=\n## |\Z)", "\n", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    words = [word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()]
    return sorted({w for w in words if re.fullmatch(r"[a-z_.]+[a-z_./]*", w) and w != "host.json"})


def exists_in_source(name: str) -> bool:
    """Tell whether a name is a file, a folder or a module of the project."""
    if (ROOT / name).exists() or (SOURCE / name).exists():
        return True
    if name.endswith(".py"):
        return any(str(one).endswith(f"/{name}") for one in SOURCE.rglob("*.py"))
    if name.endswith("/"):
        return any(one.is_dir() for one in SOURCE.rglob(name.rstrip("/")))
    path = SOURCE / name.removeprefix("godwit.").replace(".", "/")
    return "." in name and (path.is_dir() or path.with_suffix(".py").is_file())


def test_every_file_and_room_that_the_architecture_names_exists() -> None:
    named = [one for one in named_in_architecture() if re.search(r"[./]", one)]
    assert len(named) > 12
    assert [one for one in named if not exists_in_source(one)] == []


def test_the_rooms_drawn_are_the_rooms_enforced() -> None:
    text = ARCHITECTURE.read_text().partition("\n## The rooms of")[2]
    drawing = text.split("```")[1].strip().splitlines()
    drawn = [re.split(r"\s{2,}", line)[0] for line in drawing]
    contract = (ROOT / ".importlinter").read_text().partition("layers =\n")[2].partition("\n\n")[0]
    enforced = [line.strip().replace("godwit.", "") for line in contract.splitlines()]
    assert [layer for layer in drawn if layer != "testing"] == enforced
    rooms = {room for layer in drawn for room in layer.split(" | ")}
    assert rooms == {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def test_every_rust_program_and_crate_named_exists() -> None:
    text = ARCHITECTURE.read_text()
    crates = {path.name for path in (ROOT / "rust" / "crates").iterdir()}
    programs = set(re.findall(r"`godwit-([a-z]+)`", text))
    rust = text.partition("\nRust (")[2].partition("\n\n")[0]
    assert programs | set(re.findall(r"`([a-z]+)`", rust)) <= crates
    assert {"edge", "dns", "shim", "init"} <= programs
