"""JSON is read strictly."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.api import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_json_can_say_comes_back(value: object) -> None:
    assert strict_json.loads(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_in_words(data: bytes) -> None:
    with contextlib.suppress(strict_json.NotJson):
        strict_json.loads(data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "no value"),
        ("[-Infinity]", "no value"),
        ("1e999", "too large"),
        ('"\\ud800"', "half of a character"),
        ('{"\\udc00": 1}', "half of a character"),
        ("[" * 100_000, "nested"),
        ("[" * 65 + "]" * 65, "nested"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("9" * 5000, "not JSON"),
    ],
)
def test_what_could_not_be_written_again_is_refused(text: str, said: str) -> None:
    with pytest.raises(strict_json.NotJson, match=said):
        strict_json.loads(text.encode())


def test_pairs_of_surrogates_are_characters() -> None:
    assert strict_json.loads(b'"\\ud83d\\ude00"') == "\U0001f600"
