"""How long things are as JSON, and beginnings that fit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import encoded


@pytest.mark.parametrize(
    ("value", "size"),
    [("", 2), ("a", 3), ("é", 4), ("\0", 8), ('"', 4), ({"a": [1, None]}, 14), ("\U0001f426", 6)],
)
def test_the_size_is_that_of_the_json(value: object, size: int) -> None:
    assert encoded.size(value) == size


@given(st.text(st.sampled_from('a"\0é\U0001f426\n')), st.integers(2, 60))
def test_a_beginning_fits_and_one_more_character_would_not(text: str, limit: int) -> None:
    found = encoded.beginning(text, limit)
    assert text.startswith(found)
    assert len(json.dumps(found, ensure_ascii=False).encode()) <= limit
    if found != text:
        assert encoded.size(text[: len(found) + 1]) > limit
