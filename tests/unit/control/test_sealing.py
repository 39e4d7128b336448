"""Secrets at rest: what opens them, and what does not."""

import base64
import dataclasses
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base.errors import Failure
from godwit.control import sealing

KEY = bytes(range(32))


@given(st.binary(max_size=2_000), st.text(max_size=100))
def test_what_was_sealed_opens_for_what_it_belongs_to(secret: bytes, context: str) -> None:
    sealed = sealing.Sealer(KEY).seal(secret, context)
    assert sealing.Sealer(KEY).open(sealed, context) == secret
    with pytest.raises(Failure, match="does not open"):
        sealing.Sealer(KEY).open(sealed, context + "x")


def test_the_same_secret_is_never_sealed_the_same() -> None:
    sealer = sealing.Sealer(KEY)
    assert sealer.seal(b"geheim", "a").data != sealer.seal(b"geheim", "a").data
    assert b"geheim" not in sealer.seal(b"geheim", "a").data


def test_a_changed_record_does_not_open() -> None:
    sealer = sealing.Sealer(KEY)
    sealed = sealer.seal(b"geheim", "a")
    changed = dataclasses.replace(sealed, data=sealed.data[:-1] + bytes([sealed.data[-1] ^ 1]))
    with pytest.raises(Failure, match="was changed"):
        sealer.open(changed, "a")


def test_another_key_is_told_from_a_changed_record() -> None:
    sealed = sealing.Sealer(KEY).seal(b"geheim", "a")
    other = sealing.Sealer(bytes(32))
    with pytest.raises(Failure, match=sealed.key_id) as caught:
        other.open(sealed, "a")
    assert other.key_id in caught.value.message
    with pytest.raises(Failure, match="format 2"):
        sealing.Sealer(KEY).open(dataclasses.replace(sealed, format=2), "a")


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = sealing.ensure(tmp_path)
    path = tmp_path / "sealing.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(path.read_text())) == 32
    assert sealing.ensure(tmp_path).key_id == first.key_id
    assert [each.name for each in tmp_path.iterdir()] == ["sealing.key"]


@pytest.mark.parametrize("content", ["", "short", base64.b64encode(b"x" * 31).decode(), "é" * 44])
def test_a_broken_key_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "sealing.key").write_text(content)
    with pytest.raises(Failure, match="holds no key"):
        sealing.ensure(tmp_path)
    assert (tmp_path / "sealing.key").read_text() == content
