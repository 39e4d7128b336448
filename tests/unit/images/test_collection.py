"""The plan of a collection: what is needed stays, what goes goes in order and for a reason."""

from hypothesis import given
from hypothesis import strategies as st

from godwit.images import collection
from godwit.images.collection import Resting, Rules, Space

NOW = 10**12
DAY = 86_400_000
RULES = Rules(high=0.8, low=0.5, age_ms=14 * DAY, fresh_ms=600_000)

RESTING = st.builds(
    Resting,
    digest=st.uuids().map(str),
    size_bytes=st.integers(0, 400),
    used_at_ms=st.integers(NOW - 30 * DAY, NOW + DAY),
    users=st.integers(0, 2),
    pinned=st.booleans(),
)
IMAGES = st.lists(RESTING, max_size=12, unique_by=lambda one: one.digest)
SPACES = st.integers(0, 1000).map(lambda free: Space(1000, free))


@given(IMAGES, SPACES)
def test_what_is_needed_never_goes(images: list[Resting], space: Space) -> None:
    gone = {one.digest for one in collection.plan(images, space, RULES, NOW).removals}
    needed = {one.digest for one in images if one.users or one.pinned}
    fresh = {one.digest for one in images if NOW - one.used_at_ms < RULES.fresh_ms}
    assert gone.isdisjoint(needed | fresh)


@given(IMAGES, SPACES)
def test_the_longest_unused_goes_first(images: list[Resting], space: Space) -> None:
    used = {one.digest: one.used_at_ms for one in images}
    gone = [used[one.digest] for one in collection.plan(images, space, RULES, NOW).removals]
    assert gone == sorted(gone)
    stay = [
        used[one.digest]
        for one in images
        if not collection.hold(one, RULES, NOW) and used[one.digest] not in gone
    ]
    assert not gone or all(gone[-1] <= at for at in stay)


@given(IMAGES, SPACES)
def test_what_is_old_goes_on_an_empty_disk_too(images: list[Resting], space: Space) -> None:
    gone = {one.digest for one in collection.plan(images, space, RULES, NOW).removals}
    for one in images:
        if not collection.hold(one, RULES, NOW) and NOW - one.used_at_ms >= RULES.age_ms:
            assert one.digest in gone


@given(IMAGES, SPACES)
def test_nothing_goes_for_space_that_is_not_needed(images: list[Resting], space: Space) -> None:
    plan = collection.plan(images, space, RULES, NOW)
    for_space = [one for one in plan.removals if one.reason == "space"]
    if space.used < RULES.high:
        assert not for_space
        assert plan.short_bytes == 0
    elif for_space:
        # Without the last of them the low mark would not have been reached.
        taken = 1000 - space.free_bytes - plan.freed_bytes + for_space[-1].size_bytes
        assert taken > 500


@given(IMAGES, SPACES)
def test_the_low_mark_is_reached_or_the_lack_is_said(images: list[Resting], space: Space) -> None:
    plan = collection.plan(images, space, RULES, NOW)
    if space.used >= RULES.high:
        taken = 1000 - space.free_bytes - plan.freed_bytes
        assert max(0, taken - 500) == plan.short_bytes
        if plan.short_bytes:
            gone = {one.digest for one in plan.removals}
            left = [one for one in images if one.digest not in gone]
            assert all(collection.hold(one, RULES, NOW) for one in left)


@given(IMAGES, SPACES)
def test_carrying_out_a_plan_leaves_no_second_one(images: list[Resting], space: Space) -> None:
    plan = collection.plan(images, space, RULES, NOW)
    gone = {one.digest for one in plan.removals}
    left = [one for one in images if one.digest not in gone]
    after = Space(1000, min(1000, space.free_bytes + plan.freed_bytes))
    assert collection.plan(left, after, RULES, NOW).removals == ()


def test_a_removal_says_why() -> None:
    old = Resting("a", 1, NOW - 20 * DAY)
    young = Resting("b", 1, NOW - DAY)
    plan = collection.plan([young, old], Space(100, 10), RULES, NOW)
    assert [one.sentence for one in plan.removals] == [
        "not used for 20 days",
        "the disk is 90% full",
    ]
