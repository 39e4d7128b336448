"""A direction between two regions: delay, order, loss, cuts, bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.lane import Condition, Lane


def never() -> float:
    return 0.999


def lane(delay_ms: float = 40.0, *, loss: float = 0.0, queue_bytes: int = 1_000) -> Lane:
    return Lane(Condition(delay_ms=delay_ms, loss=loss), never, queue_bytes)


def test_a_packet_goes_out_when_its_delay_is_over_and_not_before() -> None:
    here = lane()
    here.take(b"a", now=1.0)
    assert here.due == pytest.approx(1.04)
    assert here.give(1.0399) is None
    assert here.give(1.0401) == b"a"
    assert here.due is None
    assert here.give(9.0) is None


def test_a_report_tells_how_long_packets_were_held_and_how_late_they_were() -> None:
    here = lane()
    for at, out in ((1.0, 1.041), (2.0, 2.042), (3.0, 3.050)):
        here.take(b"a", at)
        assert here.give(out) == b"a"
    report = here.report()
    assert report.passed == 3
    assert report.held_ms == pytest.approx(42.0)
    assert report.late_ms == pytest.approx(2.0)
    assert report.latest_ms == pytest.approx(10.0)


@given(
    st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 100), st.booleans()), max_size=40),
)
def test_packets_never_overtake_one_another_whatever_becomes_of_the_delay(
    steps: list[tuple[float, float, bool]],
) -> None:
    here, now, came_out = lane(), 0.0, []
    for number, (pause, delay_ms, change) in enumerate(steps):
        now += pause
        if change:
            here.change(Condition(delay_ms=delay_ms))
        here.take(number.to_bytes(2, "big"), now)
        while (packet := here.give(now)) is not None:
            came_out.append(packet)
    while (packet := here.give(now + 1)) is not None:
        came_out.append(packet)
    assert came_out == [number.to_bytes(2, "big") for number in range(len(steps))]


def test_what_does_not_fit_is_dropped_and_counted_and_the_rest_passes() -> None:
    here = lane(queue_bytes=10)
    for packet in (b"12345", b"67890", b"x", b"y"):
        here.take(packet, 0.0)
    assert here.report().overflowed == 2
    assert [here.give(1.0), here.give(1.0), here.give(1.0)] == [b"12345", b"67890", None]
    here.take(b"1234567890", 1.0)
    assert here.give(2.0) == b"1234567890"


def test_a_share_of_the_packets_is_lost() -> None:
    chances = iter([0.1, 0.3, 0.29, 0.9])
    here = Lane(Condition(loss=0.3), lambda: next(chances))
    for packet in (b"1", b"2", b"3", b"4"):
        here.take(packet, 0.0)
    assert [here.give(0.0), here.give(0.0), here.give(0.0)] == [b"2", b"4", None]
    assert here.report().lost == 2


def test_a_cut_loses_what_comes_and_what_is_on_the_way_until_it_is_healed() -> None:
    here = lane()
    here.take(b"on the way", 0.0)
    here.change(Condition(delay_ms=40, cut=True))
    here.take(b"late", 0.01)
    assert here.due is None
    assert here.report().cut_off == 2
    here.change(Condition(delay_ms=40))
    here.take(b"after", 0.02)
    assert here.give(1.0) == b"after"


def test_what_the_kernel_refuses_did_not_pass() -> None:
    here = lane(0)
    here.take(b"a", 0.0)
    assert here.give(0.0) == b"a"
    here.refuse()
    assert (here.report().passed, here.report().refused) == (0, 1)


@pytest.mark.parametrize("wrong", [{"delay_ms": -1}, {"delay_ms": 1e9}, {"loss": 1.1}])
def test_a_condition_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="within"):
        Condition(**wrong)
