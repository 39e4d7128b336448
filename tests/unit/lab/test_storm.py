"""Faults drawn by chance: the same for the same seed, never two of one thing, all undone."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from lab import plan, storm

LAB = plan.simple("lab", ("fra", "iad", "nrt"), hosts=2)
UNDONE_BY = {
    "cut": "heal",
    "cut one way": "heal",
    "slow": "as planned",
    "stop": "continue",
    "lose power": "give power",
}
SEEDS = st.integers(0, 2**32)


def things(event: storm.Event) -> set[tuple[str, ...]]:
    """Return the links or the host that an event is about."""
    first = event.subject[0]
    if "-" in first:
        return {(first,)}
    if len(event.subject) == 1:
        return {pair for pair in LAB.pairs if first in pair}
    return {tuple(sorted(event.subject))}


@given(SEEDS)
def test_a_seed_always_draws_the_same(seed: int) -> None:
    assert storm.draw(LAB, seed, 60) == storm.draw(LAB, seed, 60)


@given(SEEDS)
def test_every_fault_is_undone_before_its_thing_is_disturbed_again(seed: int) -> None:
    disturbed: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for event in storm.draw(LAB, seed, 60):
        for thing in things(event):
            faults = disturbed[thing]
            if event.action in UNDONE_BY:
                assert faults == []
                faults.append(UNDONE_BY[event.action])
            elif event.action != "kill":
                assert faults == [event.action]
                faults.clear()
    assert not any(disturbed.values())


def test_every_kind_of_fault_comes_and_in_order() -> None:
    events = storm.draw(LAB, 1, 1_000)
    assert {event.action for event in events} >= {*UNDONE_BY, *UNDONE_BY.values(), "kill"}
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    assert {event.subject[1] for event in events if event.action == "kill"} == {*storm.COMPONENTS}


def test_a_lab_of_one_region_has_no_faults_of_links() -> None:
    events = storm.draw(plan.simple("lab", ("fra",)), 1, 1_000)
    assert events
    assert {event.subject[0] for event in events} == {"fra-1"}


def test_an_event_is_a_sentence() -> None:
    event = storm.Event(2.5, "slow", ("fra", "iad"), delay_ms=200, loss=0.05)
    assert str(event) == "   2.5 s slow fra iad to 200 ms, losing 5%"
