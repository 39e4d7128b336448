"""Sealed secrets open for whom they are sealed, and for nothing and nobody else."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.wire import guest
from godwit.wire import secrets as sealing

KEY = b"k" * 32
OWNER = sealing.Owner(org_id="org_a", app_id="app_a")
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


def public(private: X25519PrivateKey) -> str:
    return sealing.to_text(private.public_key().public_bytes_raw())


@given(NAMES, st.integers(1, 2**62), st.binary(max_size=300))
def test_a_value_opens_as_it_was(name: str, version: int, plain: bytes) -> None:
    sealed = sealing.seal_value(KEY, OWNER, "key_1", (name, version, plain))
    assert sealing.open_value(KEY, OWNER, "key_1", sealed) == plain
    assert plain == b"" or len(plain) < 4 or plain not in sealing.to_bytes(sealed.data)


@given(
    NAMES,
    st.sampled_from(["key", "org", "app", "key_id", "name", "version", "byte"]),
    st.integers(0, 40),
)
def test_a_value_opens_for_nothing_else(name: str, wrong: str, at: int) -> None:
    sealed = sealing.seal_value(KEY, OWNER, "key_1", (name, 7, b"geheim"))
    key, owner, key_id = KEY, OWNER, "key_1"
    if wrong == "key":
        key = b"K" * 32
    elif wrong in ("org", "app"):
        owner = OWNER.model_copy(update={f"{wrong}_id": "another"})
    elif wrong == "key_id":
        key_id = "key_2"
    elif wrong in ("name", "version"):
        sealed = sealed.model_copy(update={wrong: "another" if wrong == "name" else 8})
    else:
        data = bytearray(sealing.to_bytes(sealed.data))
        data[at % len(data)] ^= 1
        sealed = sealed.model_copy(update={"data": sealing.to_text(bytes(data))})
    if (key, owner, key_id, sealed.name) == (KEY, OWNER, "key_1", name) and wrong == "name":
        return
    with pytest.raises(errors.Failure) as refused:
        sealing.open_value(key, owner, key_id, sealed)
    assert refused.value.code == "failed_precondition"


def test_a_key_opens_on_the_host_it_was_sealed_for_alone() -> None:
    mine, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    sealed = sealing.seal_for_host(KEY, OWNER, "key_1", public(mine))
    assert sealing.open_for_host(mine, OWNER, sealed) == KEY
    other_app = OWNER.model_copy(update={"app_id": "app_b"})
    other_key = sealed.model_copy(update={"key_id": "key_2"})
    for private, owner, given_key in (
        (theirs, OWNER, sealed),
        (mine, other_app, sealed),
        (mine, OWNER, other_key),
        (mine, OWNER, sealed.model_copy(update={"data": "AAAA"})),
    ):
        with pytest.raises(errors.Failure):
            sealing.open_for_host(private, owner, given_key)


@pytest.mark.parametrize("bad", ["", "AAAA", "no base64"])
def test_what_is_no_key_is_refused(bad: str) -> None:
    with pytest.raises(errors.Failure):
        sealing.seal_for_host(KEY, OWNER, "key_1", bad)


def test_no_two_seals_are_alike() -> None:
    value = ("A", 1, b"x")
    one, two = (sealing.seal_value(KEY, OWNER, "key_1", value) for _ in range(2))
    assert one.data != two.data


@given(st.dictionaries(NAMES, st.binary(max_size=40)))
def test_an_environment_of_bytes_is_split_and_loses_nothing(env: dict[str, bytes]) -> None:
    given_env = {name: value.decode(errors="surrogateescape") for name, value in env.items()}
    text, coded = guest.split_environment(given_env)
    whole = {name: value.encode() for name, value in text.items()}
    whole |= {name: sealing.to_bytes(value) for name, value in coded.items()}
    assert whole == env


def test_no_value_of_an_environment_is_told_in_more_than_its_base64() -> None:
    env = {"TEXT": "a\nb", "CONTROL": "\x01" * 30, "QUOTES": '"' * 30}
    text, coded = guest.split_environment(env)
    assert text == {"TEXT": "a\nb"}
    assert coded == {"CONTROL": "AQEB" * 10, "QUOTES": "IiIi" * 10}
