"""What a host that joined is given of control is where control and keyring look for it."""

import base64
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.base.clock import SystemClock
from godwit.control import replicas, residence
from godwit.host import control_parts, identity
from godwit.keyring.roots import Roots
from godwit.wire.joining import ControlParts

URL = "postgresql://godwit:secret@db.internal/godwit"


def parts(data: Path, first: Path, **changes: object) -> ControlParts:
    """Return what the first host gives the one with that data directory."""
    sealing_key = identity.ensure_halves(data)["sealing_key"]
    roots = Roots.load(first / "keyring", SystemClock()).sealed_for(sealing_key)
    given = {"database": URL, "keys": {"sealing.key": "its key\n"}, "roots": roots} | changes
    return ControlParts.model_validate(given)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "new" / "keys").mkdir(parents=True)
    (tmp_path / "first").mkdir()
    return tmp_path / "new"


def test_its_keyring_has_the_root_keys_and_its_control_the_database(
    data: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    control_parts.keep(data, parts(data, first))
    told = Roots.load(data / "keyring", SystemClock()).told()
    assert told == Roots.load(first / "keyring", SystemClock()).told()
    assert residence.choose(residence.Files(data / "control"), "") == URL
    assert (data / "keys" / "sealing.key").read_text() == "its key\n"
    for file in (data / "keys" / "sealing.key", data / "keyring" / "roots.json"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_for_another_host_does_not_open(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "keys").mkdir(parents=True)
    identity.ensure_halves(data)
    with pytest.raises(errors.Failure, match="does not open"):
        control_parts.keep(data, parts(other, tmp_path / "first"))
    assert not (data / "keyring" / "roots.json").exists()


@pytest.mark.parametrize("name", ["host.seed", "../members.json", "unheard.key"])
def test_no_other_file_is_written(data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.Failure, match="keys that this release does not know"):
        control_parts.keep(data, parts(data, tmp_path / "first", keys={name: "x"}))
    assert base64.b64decode((data / "keys" / "host.x25519").read_text())
    assert not (data / "keys" / "unheard.key").exists()


def test_the_shared_keys_are_none_that_a_host_has_of_its_own() -> None:
    own = {f"{name}.seed" for name in identity.COMPONENTS} | {"host.x25519", "mesh.key"}
    assert not own & set(replicas.KEYS)
