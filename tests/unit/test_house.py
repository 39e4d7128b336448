"""The rules of the house that no linter holds: documented, small, owned, safe, pinned."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "godwit"
CRATES = sorted((ROOT / "rust" / "crates").iterdir())
MODULES = [*sorted(SOURCE.rglob("*.py")), *sorted((ROOT / "lab").rglob("*.py"))]
PYTHON = [
    *MODULES,
    *(p for room in ("tests", "tools", "examples") for p in sorted((ROOT / room).rglob("*.py"))),
]
RUST = [path for crate in CRATES for path in sorted(crate.rglob("*.rs"))]
TEXTS = [
    *(path for path in (*PYTHON, *RUST) if path != Path(__file__).resolve()),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("tools/*.sh")),
    *sorted(ROOT.glob("lab/*.sh")),
    ROOT / "README.md",
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
]

LINES_OF_A_FILE = 600
LINES_OF_A_FUNCTION = 60
EXCEPTIONS: dict[str, str] = {}
"""What may be longer, `path` or `path:function`, and why."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_every_module_says_what_it_is() -> None:
    silent = [
        name(path) for path in MODULES if path.read_text() and not ast.get_docstring(tree(path))
    ]
    assert silent == []


def test_every_crate_says_what_it_is() -> None:
    roots = [path for path in RUST if path.name in ("lib.rs", "main.rs")]
    assert [name(path) for path in roots if not path.read_text().startswith("//! ")] == []


def long_files() -> list[str]:
    files = [*PYTHON, *RUST]
    return [name(path) for path in files if len(path.read_text().splitlines()) > LINES_OF_A_FILE]


def long_functions() -> list[str]:
    return [
        f"{name(path)}:{node.name}"
        for path in PYTHON
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > LINES_OF_A_FUNCTION
    ]


def test_files_and_functions_stay_short_but_for_listed_exceptions() -> None:
    assert [one for one in (*long_files(), *long_functions()) if one not in EXCEPTIONS] == []


def test_every_exception_is_still_needed_and_has_a_reason() -> None:
    assert set(EXCEPTIONS) == {*long_files(), *long_functions()} & set(EXCEPTIONS)
    assert all(EXCEPTIONS.values())


def spawns(path: Path) -> list[int]:
    """Return the lines that make a task nobody owns: task groups own theirs."""
    return [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr in ("create_task", "ensure_future")
        and re.fullmatch(r"asyncio|.*loop.*", ast.unparse(node.value))
    ]


def test_tasks_have_owners() -> None:
    owner = SOURCE / "base" / "tasks.py"
    assert spawns(owner)
    assert {name(path): spawns(path) for path in MODULES if path != owner and spawns(path)} == {}


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [name(path) for path in TEXTS if later.search(path.read_text())] == []


@pytest.mark.parametrize(
    "crate", [one for one in CRATES if one.name != "init"], ids=lambda c: c.name
)
def test_a_crate_forbids_unsafe_code(crate: Path) -> None:
    roots = [path for path in (crate / "src/lib.rs", crate / "src/main.rs") if path.exists()]
    assert roots
    for root in roots:
        assert "\n#![forbid(unsafe_code)]\n" in root.read_text(), name(root)


def test_init_is_unsafe_in_one_module_only() -> None:
    allowing = [name(path) for path in RUST if "allow(unsafe_code)" in path.read_text()]
    assert allowing == ["rust/crates/init/src/sys.rs"]


def test_every_crate_is_held_to_the_workspace_lints() -> None:
    for crate in CRATES:
        manifest = tomllib.loads((crate / "Cargo.toml").read_text())
        assert manifest["lints"] == {"workspace": True}, name(crate)


def locked() -> dict[str, list[str]]:
    """Return the packages of the lock with the lines that belong to each."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        pinned = re.match(r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?==\S+", line)
        if pinned:
            current = found.setdefault(normal(pinned[1]), [])
        if line.strip() and not line.lstrip().startswith("#"):
            current.append(line)
    return found


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(re.split(r"[\[<>=!~ ;]", one)[0]) for one in wanted}
    assert names - set(locked()) == set()


def test_everything_locked_has_a_hash_and_nothing_comes_by_address() -> None:
    assert [one for one, lines in locked().items() if "--hash=sha256:" not in "".join(lines)] == []
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://| @ |^-|^--", text, re.MULTILINE)


def test_nothing_rust_comes_from_outside_the_registry() -> None:
    packages = tomllib.loads((ROOT / "rust" / "Cargo.lock").read_text())["package"]
    public = "registry+https://github.com/rust-lang/crates.io-index"
    assert {one["source"] for one in packages if "source" in one} == {public}
    assert [one["name"] for one in packages if "source" in one and "checksum" not in one] == []
