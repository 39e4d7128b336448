import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.cli.scale.spread import spread

REGIONS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)
COUNTS = st.integers(0, 9)


@pytest.mark.parametrize(
    ("now", "regions", "total", "most", "expected"),
    [
        ({}, "a", 3, None, {"a": 3}),
        ({}, "abc", 4, None, {"a": 2, "b": 1, "c": 1}),
        ({}, "cab", 4, None, {"c": 2, "a": 1, "b": 1}),
        ({"a": 3}, "ab", 5, None, {"a": 4, "b": 1}),
        ({"a": 1}, "abc", 3, None, {"a": 1, "b": 1, "c": 1}),
        ({"a": 1}, "abc", 2, None, {"a": 1, "b": 1, "c": 0}),
        ({"a": 2}, "abc", 6, None, {"a": 3, "b": 2, "c": 1}),
        ({"a": 3, "b": 5}, "ab", 12, None, {"a": 5, "b": 7}),
        ({"a": 7, "b": 1}, "abcd", 8, 2, {"a": 2, "b": 2, "c": 2, "d": 2}),
        ({"a": 2, "b": 2, "c": 2}, "abc", 5, None, {"a": 2, "b": 1, "c": 2}),
        ({"a": 2, "b": 2, "c": 2}, "abc", 4, None, {"a": 2, "b": 1, "c": 1}),
        ({"a": 2, "b": 2, "c": 2}, "abc", 3, None, {"a": 1, "b": 1, "c": 1}),
        ({"a": 2, "b": 2, "c": 2}, "abc", 2, None, {"a": 1, "b": 0, "c": 1}),
        ({"a": 3, "b": 0}, "ab", 1, None, {"a": 1, "b": 0}),
        ({"a": 3, "b": 0}, "ba", 2, None, {"b": 0, "a": 2}),
        ({"a": 2}, "a", 0, None, {"a": 0}),
        ({"x": 9}, "ab", 2, None, {"a": 1, "b": 1}),
        ({"a": 4}, "ab", 4, 2, {"a": 2, "b": 2}),
        ({"a": 4}, "abc", 3, 1, {"a": 1, "b": 1, "c": 1}),
        ({"a": 1, "b": 4}, "ab", 3, 2, {"a": 1, "b": 2}),
        ({"a": 1}, "ab", 2, 1, {"a": 1, "b": 1}),
        ({"a": 1}, "ab", 0, 0, {"a": 0, "b": 0}),
    ],
)
def test_how_a_total_is_spread(now, regions, total, most, expected):
    found = spread(now, list(regions), total, most)
    assert found == expected
    assert list(found) == list(regions)


def test_more_than_the_regions_may_have_is_refused():
    with pytest.raises(errors.Failure, match="5 machines do not fit: 2 regions with at most 2"):
        spread({}, ["a", "b"], 5, 2)


@given(st.dictionaries(st.sampled_from("abcdefx"), COUNTS), REGIONS, st.integers(0, 40))
def test_the_sum_is_what_was_asked_and_nothing_moves_without_need(now, regions, total):
    found = spread(now, regions, total)
    assert sum(found.values()) == total
    assert list(found) == regions
    deltas = [found[region] - now.get(region, 0) for region in regions]
    assert all(delta >= 0 for delta in deltas) or all(delta <= 0 for delta in deltas)
    if max(deltas) > 0:
        empty = [at for at, region in enumerate(regions) if not now.get(region)]
        for at in empty[: sum(deltas)]:
            deltas[at] -= 1
        assert sorted(deltas, reverse=True) == deltas
        assert max(deltas) - min(deltas) <= 1


@given(
    st.dictionaries(st.sampled_from("abcdefx"), COUNTS),
    REGIONS,
    st.integers(0, 40),
    st.integers(0, 9),
)
def test_no_region_has_more_than_its_most(now, regions, total, most):
    if most * len(regions) < total:
        with pytest.raises(errors.Failure):
            spread(now, regions, total, most)
        return
    found = spread(now, regions, total, most)
    assert sum(found.values()) == total
    assert all(0 <= count <= most for count in found.values())


@given(st.lists(COUNTS, min_size=1, max_size=6), st.data())
def test_the_first_region_gives_last(counts, data):
    regions = list("abcdef")[: len(counts)]
    now = dict(zip(regions, counts, strict=True))
    total = data.draw(st.integers(0, sum(counts)))
    found = spread(now, regions, total)
    taken = [now[region] - found[region] for region in regions]
    # Whoever still has machines has given at most one less than any other, the first of all.
    for region, given_ in zip(regions, taken, strict=True):
        if found[region]:
            assert max(taken) - given_ <= 1
            assert region != regions[0] or given_ <= min(
                [one for one, other in zip(taken[1:], regions[1:], strict=True) if found[other]],
                default=given_,
            )
