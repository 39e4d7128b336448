import pytest

from godwit.cli import times

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOW_MS, "just now"),
        (NOW_MS + 5_000, "just now"),
        (NOW_MS - 42_000, "42s ago"),
        (NOW_MS - 5 * 60_000, "5m ago"),
        (NOW_MS - 3 * 3_600_000, "3h ago"),
        (NOW_MS - 50 * 3_600_000, "2d ago"),
        ("2023-11-14T22:13:10Z", "10s ago"),
        ("2023-11-14T22:13:10", "10s ago"),
        ("yesterday", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_how_long_ago(at, text):
    assert times.ago(at, NOW_MS) == text


def test_a_moment_is_the_same_however_it_was_given():
    assert times.moment(NOW_MS) == "2023-11-14T22:13:20+00:00"
    assert times.moment("2023-11-14T22:13:20Z") == "2023-11-14T22:13:20Z"
    assert times.moment(None) == ""
