"""The plan of a collection of the registry: what is needed, young or the newest stays."""

from hypothesis import given
from hypothesis import strategies as st

from godwit.control import registry_plan
from godwit.control.registry_plan import Gathering, Needed
from godwit.images.registry_disk import Pushed

REGISTRY = "127.0.0.1:5050"
YOUNG = 1_000

DIGESTS = st.sampled_from([f"sha256:{letter * 64}" for letter in "abcdef"])
TAGS = st.sampled_from(["latest", "v1", "v2"])
PUSHED = st.builds(
    Pushed,
    repository=st.sampled_from(["shop", "shop/cache", "theirs"]),
    digest=DIGESTS,
    pushed_at_ms=st.integers(0, 2_000),
    tags=st.frozensets(TAGS, max_size=2),
    children=st.frozensets(DIGESTS, max_size=2),
)
IMAGES = st.lists(PUSHED, max_size=10, unique_by=lambda one: (one.repository, one.digest))
NEEDED = st.builds(
    Needed,
    digests=st.frozensets(DIGESTS, max_size=2),
    tags=st.frozensets(st.tuples(st.sampled_from(["shop", "theirs"]), TAGS), max_size=2),
    apps=st.frozensets(st.sampled_from(["shop", "theirs"])),
)


def key(one: Pushed) -> tuple[str, str]:
    return one.repository, one.digest


@given(IMAGES, NEEDED)
def test_what_is_needed_or_young_never_goes(images: list[Pushed], needed: Needed) -> None:
    for one in registry_plan.plan(images, needed, young_from_ms=YOUNG):
        assert one.pushed_at_ms < YOUNG
        assert one.digest not in needed.digests
        assert not any((one.repository, tag) in needed.tags for tag in one.tags)


@given(IMAGES, NEEDED)
def test_no_index_that_stays_loses_what_it_lists(images: list[Pushed], needed: Needed) -> None:
    gone = {key(one) for one in registry_plan.plan(images, needed, young_from_ms=YOUNG)}
    for one in images:
        if one.digest in needed.digests or one.pushed_at_ms >= YOUNG:
            assert not {(one.repository, child) for child in one.children} & gone


@given(IMAGES, NEEDED)
def test_the_newest_tagged_push_of_an_app_stays(images: list[Pushed], needed: Needed) -> None:
    gone = {key(one) for one in registry_plan.plan(images, needed, young_from_ms=YOUNG)}
    for repository in {one.repository for one in images}:
        tagged = [one for one in images if one.repository == repository and one.tags]
        if tagged and repository.partition("/")[0] in needed.apps:
            newest = max(one.pushed_at_ms for one in tagged)
            assert any(key(one) not in gone for one in tagged if one.pushed_at_ms == newest)


@given(IMAGES)
def test_all_that_is_old_goes_when_nothing_is_needed(images: list[Pushed]) -> None:
    gone = registry_plan.plan(images, Needed(), young_from_ms=10_000)
    assert {key(one) for one in gone} == {key(one) for one in images}


def test_an_index_goes_before_what_it_lists() -> None:
    child = Pushed("shop", f"sha256:{'a' * 64}", 0)
    index = Pushed("shop", f"sha256:{'b' * 64}", 0, children=frozenset({child.digest}))
    assert registry_plan.plan([child, index], Needed(), young_from_ms=1) == (index, child)


def test_only_references_into_the_own_registry_are_needed_of_it() -> None:
    needed = Gathering(REGISTRY)
    digest = f"sha256:{'a' * 64}"
    for text in (f"{REGISTRY}/shop:v1", f"{REGISTRY}/shop@{digest}", "nginx", "not a reference!"):
        needed.reference(text)
    assert needed.done() == Needed(frozenset({digest}), frozenset({("shop", "v1")}))
