"""Of those that keep one mirror, one works; when it is gone, the next."""

from hypothesis import given
from hypothesis import strategies as st

from godwit.bus.turns import HEARD_S, Voices


def test_nobody_works_before_it_has_listened() -> None:
    voices = Voices("b", 10.0)
    assert not voices.mine(10.0)
    assert voices.mine(10.0 + HEARD_S)


def test_who_comes_first_by_name_works_for_as_long_as_it_is_heard() -> None:
    voices = Voices("b", 0.0)
    voices.hear("a", 5.0)
    voices.hear("c", 5.0)
    assert not voices.mine(5.0)
    assert voices.mine(5.0 + HEARD_S)


def test_ones_own_voice_means_nothing() -> None:
    voices = Voices("b", 0.0)
    voices.hear("b", 5.0)
    assert voices.mine(5.0)


def test_a_bus_that_was_away_is_listened_to_anew() -> None:
    voices = Voices("b", 0.0)
    voices.hear("a", 5.0)
    voices.restart(20.0)
    assert not voices.mine(21.0)
    assert voices.mine(20.0 + HEARD_S)


@given(names=st.sets(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5))
def test_of_those_that_hear_each_other_exactly_one_works(names: set[str]) -> None:
    each = {name: Voices(name, 0.0) for name in names}
    for voices in each.values():
        for name in names:
            voices.hear(name, HEARD_S)
    assert sum(voices.mine(HEARD_S) for voices in each.values()) == 1
