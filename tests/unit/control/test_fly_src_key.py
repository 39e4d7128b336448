"""The cluster's key for `Fly-Src`: made once, kept for root alone, with its public half beside it."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from godwit.control import edge_authority, fly_src_key, replicas
from godwit.wire import fly_src


def files(keys: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in keys.iterdir()}


def test_it_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    assert fly_src_key.read(tmp_path) == ""
    fly_src_key.ensure(tmp_path)
    made = files(tmp_path)
    assert set(made) == {fly_src.KEY_FILE, fly_src.PUBLIC_FILE}
    key = serialization.load_pem_private_key(made[fly_src.KEY_FILE], None)
    assert isinstance(key, Ed25519PrivateKey)
    assert bytes.fromhex(made[fly_src.PUBLIC_FILE].decode()) == key.public_key().public_bytes_raw()
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    fly_src_key.ensure(tmp_path)
    assert files(tmp_path) == made


def test_its_public_half_comes_again(tmp_path: Path) -> None:
    fly_src_key.ensure(tmp_path)
    made = files(tmp_path)
    (tmp_path / fly_src.PUBLIC_FILE).unlink()
    fly_src_key.ensure(tmp_path)
    assert files(tmp_path) == made


@pytest.mark.parametrize("text", ["", "nonsense", "of another kind"])
def test_what_is_no_such_key_is_left_alone(tmp_path: Path, text: str) -> None:
    if text == "of another kind":
        text = edge_authority.private_pem(ec.generate_private_key(ec.SECP256R1()))
    fly_src_key.keep(tmp_path, text)
    assert files(tmp_path) == {}


def test_further_controls_have_it() -> None:
    assert fly_src.KEY_FILE in replicas.KEYS
