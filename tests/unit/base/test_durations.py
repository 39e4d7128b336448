import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import durations


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("300ms", 300_000_000),
        ("10s", 10_000_000_000),
        ("1m30s", 90_000_000_000),
        ("2h", 7_200_000_000_000),
        ("1.5s", 1_500_000_000),
        (".5m", 30_000_000_000),
        ("1.s", 1_000_000_000),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("-3ns", -3),
        ("+1h1m1s1ms", 3_661_001_000_000),
    ],
)
def test_reads_what_go_reads(text, nanoseconds):
    assert durations.parse(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "s", "10", "1x", "1s ", ".s", "-", "1 s", "٣s"])
def test_refuses_what_go_refuses(text):
    with pytest.raises(ValueError, match="expected a duration such as 300ms, 10s, 1m30s or 2h"):
        durations.parse(text)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="longer than 292 years"):
        durations.parse("9999999999h")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (300_000_000, "300ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (-1_000_000_000, "-1s"),
    ],
)
def test_writes_as_go_writes(nanoseconds, text):
    assert durations.render(nanoseconds) == text


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_what_is_written_reads_the_same(nanoseconds):
    assert durations.parse(durations.render(nanoseconds)) == nanoseconds


@given(st.text(max_size=40))
def test_any_text_is_a_duration_or_a_value_error(text):
    try:
        durations.parse(text)
    except ValueError as error:
        assert "expected a duration" in str(error)  # noqa: PT017 - either way is fine
