"""The systemd unit."""

import configparser
from pathlib import Path

import pytest

from godwit.host import units


def parsed(text: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None)
    read.optionxform = str  # type: ignore[method-assign, assignment]
    read.read_string(text)
    return read


def test_systemd_starts_up_waits_for_its_word_and_signals_it_alone() -> None:
    unit = parsed(units.render(Path("/opt/godwit/bin/godwit"), None))
    service = unit["Service"]
    assert service["ExecStart"] == "/opt/godwit/bin/godwit up"
    assert (service["Type"], service["KillMode"]) == ("notify", "process")
    assert service["Restart"] == "always"
    # A removed host is not started again: the CLI's exit code for what is not permitted.
    assert service["RestartPreventExitStatus"] == "5"
    assert int(service["TimeoutStopSec"]) > 260
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/etc/godwit/godwit.toml", "/etc/godwit/godwit.toml"),
        ("/etc/my godwit.toml", '"/etc/my godwit.toml"'),
        ("/etc/100%.toml", "/etc/100%%.toml"),
        ("/etc/$x.toml", '"/etc/$$x.toml"'),
    ],
)
def test_the_settings_file_is_named_as_systemd_reads_names(path: str, told: str) -> None:
    text = units.render(Path("/usr/bin/godwit"), Path(path))
    assert f"ExecStart=/usr/bin/godwit up --settings {told}\n" in text


def test_what_systemd_started_is_told_from_what_a_person_did(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    assert not units.under_systemd(7, tmp_path)
    (folder / "environ").write_bytes(b"A=1\0INVOCATION_ID=x\0")
    (folder / "cgroup").write_text("0::/user.slice/session-1.scope\n")
    assert not units.under_systemd(7, tmp_path)
    (folder / "cgroup").write_text("0::/system.slice/godwit.service\n")
    assert units.under_systemd(7, tmp_path)
    (folder / "environ").write_bytes(b"A=1\0")
    assert not units.under_systemd(7, tmp_path)
