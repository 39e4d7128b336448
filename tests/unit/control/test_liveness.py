"""Which hosts count as silent, and which as gone."""

from hypothesis import given
from hypothesis import strategies as st

from godwit.control.liveness import Liveness

HOSTS = ("a", "b", "c")


def test_a_host_is_gone_after_a_while_of_silence() -> None:
    liveness = Liveness()
    liveness.observe(HOSTS, ("a", "b"), 0)
    assert liveness.silent("c")
    assert not liveness.silent("a")
    assert liveness.gone(59, 60) == []
    liveness.observe(HOSTS, ("a",), 30)
    assert liveness.gone(60, 60) == ["c"]
    liveness.observe(HOSTS, ("a", "c"), 61)
    assert liveness.gone(200, 60) == ["b"]


def test_when_nobody_answers_it_is_control_that_is_cut_off() -> None:
    liveness = Liveness()
    liveness.observe(HOSTS, ("a", "b"), 0)
    for at_s in range(10, 300, 10):
        liveness.observe(HOSTS, (), at_s)
    assert liveness.silent("a")
    assert liveness.gone(300, 60) == []
    liveness.observe(HOSTS, ("a", "b"), 300)
    assert liveness.gone(349, 60) == []
    assert liveness.gone(350, 60) == ["c"]


def test_a_host_that_is_no_more_is_forgotten() -> None:
    liveness = Liveness()
    liveness.observe(HOSTS, ("a",), 0)
    liveness.observe(("a",), ("a",), 100)
    assert liveness.gone(1_000, 60) == []


@given(rounds=st.lists(st.sets(st.sampled_from(HOSTS)), max_size=40))
def test_whoever_answered_within_the_time_is_never_gone(rounds: list[set[str]]) -> None:
    liveness = Liveness()
    last = dict.fromkeys(HOSTS, 0.0)
    for number, answered in enumerate(rounds):
        liveness.observe(HOSTS, answered, number * 10.0)
        last |= dict.fromkeys(answered, number * 10.0)
    now = len(rounds) * 10.0
    for host in liveness.gone(now, 60):
        assert now - last[host] >= 60
