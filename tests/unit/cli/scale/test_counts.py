import pytest

from godwit.base import errors
from godwit.cli.scale import counts
from godwit.cli.scale.counts import Count


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["3"], {"web": Count(3)}),
        (["0"], {"web": Count(0)}),
        (["+2"], {"web": Count(2, relative=True)}),
        (["-1"], {"web": Count(-1, relative=True)}),
        (["worker=2"], {"worker": Count(2)}),
        (["worker=-2", "cron=+1"], {"worker": Count(-2, True), "cron": Count(1, True)}),
        (["1", "worker=2"], {"web": Count(1), "worker": Count(2)}),
    ],
)
def test_counts_as_people_write_them(words, expected):
    assert counts.parse(words, "web") == expected


@pytest.mark.parametrize(
    "word", ["", "many", "1.5", "web=", "=2", "--yess", "web=2=3", "٣", "++1"]
)
def test_a_word_that_is_no_count_is_named(word):
    with pytest.raises(errors.Failure, match="expected a count such as 3") as told:
        counts.parse([word], "web")
    assert f'got "{word}"' in told.value.message


def test_a_group_is_named_once():
    with pytest.raises(errors.Failure, match="web is there twice: 1 web=2"):
        counts.parse(["1", "web=2"], "web")


def test_targets():
    assert Count(3).target(7, "web") == 3
    assert Count(-2, relative=True).target(2, "web") == 0
    with pytest.raises(errors.Failure, match="3 machines cannot go: web has 2"):
        Count(-3, relative=True).target(2, "web")
    with pytest.raises(errors.Failure, match="at most 1000"):
        Count(1_001).target(0, "web")
