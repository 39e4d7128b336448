import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.cli.machines import compared

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["~ a: 1 → 2"]),
        ({"a": {"b": "x"}}, {"a": {"b": "ä", "c": None}}, ['~ a.b: "x" → "ä"', "+ a.c: null"]),
        ({"a": [1]}, {}, ["- a: [1]"]),
        ({"a": [1, 2]}, {"a": [2]}, ["~ a: [1, 2] → [2]"]),
        ({"s": [{"p": 1}]}, {"s": [{"p": 2}, {"p": 3}]}, ["~ s[0].p: 1 → 2", '+ s[1]: {"p": 3}']),
        ({"s": [{"p": 1}]}, {"s": []}, ['- s[0]: {"p": 1}']),
    ],
)
def test_a_line_for_each_difference(old, new, expected):
    assert compared.lines(old, new) == expected


@given(
    st.dictionaries(st.sampled_from("abc"), JSON), st.dictionaries(st.sampled_from("abc"), JSON)
)
def test_there_are_lines_exactly_when_something_differs(old, new):
    assert bool(compared.lines(old, new)) == (old != new)
