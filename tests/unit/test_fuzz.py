"""`make fuzz` looks longer in every part that has properties."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fuzz(*arguments: str, path: str = os.environ["PATH"], seconds: float = 60) -> str:
    done = subprocess.run(
        [shutil.which("make") or "make", "--no-print-directory", "fuzz", *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=seconds,
        env=os.environ | {"PATH": path},
    )
    return done.stdout


def test_every_crate_with_properties_is_looked_at_with_so_many_cases(tmp_path: Path) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text('#!/bin/sh\necho "$PROPTEST_CASES $*"\n')
    cargo.chmod(0o755)
    said = fuzz("CASES=7", "ONLY=proxy", path=f"{tmp_path}:{os.environ['PATH']}").splitlines()[-1]
    cases, *words = said.split()
    crates = (ROOT / "rust" / "crates").glob("*/Cargo.toml")
    with_properties = {one.parent.name for one in crates if "proptest" in one.read_text()}
    named = {words[at + 1] for at, word in enumerate(words) if word == "-p"}
    assert (cases, words[0], words[-1]) == ("7", "test", "proxy")
    assert named == {f"godwit-{name}" for name in with_properties}
    # None says itself how many cases it takes: that would count instead.
    sources = (ROOT / "rust" / "crates").rglob("*.rs")
    assert not [one for one in sources if "with_cases" in one.read_text()]


@pytest.mark.full
def test_a_short_look_finds_nothing() -> None:
    assert "test result: ok" in fuzz("CASES=20", seconds=1_800)
