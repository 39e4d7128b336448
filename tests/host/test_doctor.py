"""`godwit doctor` on this very host: no fixed findings, but they and the exit code agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from godwit.base.settings import Listen
from godwit.testing.loopback import free_port

pytestmark = pytest.mark.host
GODWIT = Path(sys.executable).with_name("godwit")
VERDICTS = {"ok", "limited", "missing"}


def free(name: str) -> str:
    """Return a value for a setting of `listen` with which nobody is in the way."""
    of_a_port_alone = Listen.model_fields[name].annotation is int
    return str(free_port()) if of_a_port_alone else f"127.0.0.1:{free_port()}"


def doctor(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    here = {
        "GODWIT_PATHS_DATA": str(tmp_path / "data"),
        "GODWIT_PATHS_RUN": str(tmp_path / "run"),
        "GODWIT_SETTINGS": "",
        **{f"GODWIT_LISTEN_{name.upper()}": free(name) for name in Listen.model_fields},
    }
    return subprocess.run(
        [GODWIT, "doctor", *arguments],
        env={**os.environ, **here, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_what_it_says_and_how_it_exits_agree(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json")
    findings = {found["subject"]: found for found in json.loads(done.stdout)}
    assert {found["verdict"] for found in findings.values()} <= VERDICTS
    assert all(found["sentence"] for found in findings.values())
    missing = [found for found in findings.values() if found["verdict"] == "missing"]
    assert done.returncode == (1 if missing else 0), done.stderr
    virtualization = findings["virtualization"]
    expected = {
        "ok": "KVM runs guests: ",
        "limited": "KVM runs no guest here (",
        "missing": "qemu-system-x86_64 is not installed",
    }
    assert virtualization["sentence"].startswith(expected[virtualization["verdict"]])


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    assert doctor(tmp_path).returncode in (0, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_fails_it(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", GODWIT_PATHS_PROGRAMS=str(tmp_path / "nowhere"))
    findings = {found["subject"]: found for found in json.loads(done.stdout)}
    assert findings["requirements"]["verdict"] == "missing"
    assert "godwit-edge" in findings["requirements"]["sentence"]
    assert done.returncode == 1


def test_people_get_a_table_with_the_same_sentences(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert "virtualization" in done.stdout
    assert "KVM runs" in done.stdout or "qemu-system-x86_64 is not installed" in done.stdout
