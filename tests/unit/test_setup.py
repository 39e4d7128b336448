"""What set-up says on a machine that lacks something only its owner can install."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRESENT = ("bash", "cat", "cut", "dirname", "dpkg", "dpkg-query", "head", "id", "sed", "sort")
STAMPED = ("sha256sum",)


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a folder with every program that set-up begins with; all others fail loudly."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*PRESENT, *STAMPED):
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"this machine has no {name}")
        (folder / name).symlink_to(found)
    program(folder, "python3", "exit 0")
    program(folder, "cargo", "echo cargo 9.9.9 '(x 2026-01-01)'")
    program(folder, "gcc", "exit 0")
    return folder


def setup(path: Path, *arguments: str) -> tuple[int, str]:
    """Run set-up with nothing but that folder on the PATH; return its exit code and words."""
    done = subprocess.run(
        [shutil.which("bash") or "bash", str(ROOT / "tools" / "setup.sh"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(path), "HOME": str(path)},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("missing", "way"),
    [
        ("python3", "apt-get install python3 python3-venv"),
        ("cargo", "https://rustup.rs"),
        ("gcc", "apt-get install gcc"),
        ("dpkg-query", "Debian 12"),
    ],
)
def test_what_is_missing_is_named_with_how_to_get_it(path: Path, missing: str, way: str) -> None:
    (path / missing).unlink()
    code, said = setup(path, "all")
    assert code == 1
    assert said.startswith(f"setup: {missing} is missing: ")
    assert way in said
    assert said.count("\n") == 1, "the words are followed by noise"


def test_a_rust_that_cannot_read_the_workspace_is_told_before_it_fails(path: Path) -> None:
    program(path, "cargo", "echo cargo 1.65.0")
    code, said = setup(path, "programs")
    assert code == 1
    assert said.startswith("setup: cargo 1.65.0 is too old, 1.")
    assert "https://rustup.rs" in said


def test_a_cargo_where_rustup_puts_it_is_found(path: Path) -> None:
    home = path / ".cargo" / "bin"
    home.mkdir(parents=True)
    (path / "cargo").rename(home / "cargo")
    program(path, "gcc", "exit 0")
    (path / "dpkg-query").unlink()
    code, said = setup(path, "all")
    assert (code, "dpkg-query is missing" in said) == (1, True), said


def test_an_old_python_is_told(path: Path) -> None:
    program(path, "python3", "exit 1")
    code, said = setup(path, "python")
    assert code == 1
    assert said == (
        "setup: Python 3.11 or newer is needed: apt-get install python3 python3-venv\n"
    )


def test_another_architecture_is_told(path: Path) -> None:
    (path / "dpkg").unlink()
    program(path, "dpkg", "echo arm64")
    code, said = setup(path, "all")
    assert (code, said) == (1, "setup: Godwit runs on amd64; this is arm64\n")


def test_python_tests_need_no_compiler(path: Path) -> None:
    (path / "cargo").unlink()
    (path / "gcc").unlink()
    program(path, "python3", "exit 1")
    _, said = setup(path, "python")
    assert "cargo" not in said
    assert "gcc" not in said


def test_a_word_it_does_not_know_is_answered_with_its_words(path: Path) -> None:
    code, said = setup(path, "everything")
    assert (code, said) == (
        2,
        "setup: usage: tools/setup.sh [all|python|programs|peers|strangers]\n",
    )
