"""What is promised is there, and what is not there is said in figures."""

import pytest

from godwit.agent import books, footprint
from godwit.agent.vmm import cgroups
from godwit.base import errors
from godwit.wire.host_rpc import BidRequest, Resources


def fresh() -> books.Books:
    return books.Books(books.Capacity(memory_mb=1000, cpus=2, cpu_overcommit=16, overhead_mb=100))


def test_memory_is_taken_with_what_the_vmm_needs_beside_it() -> None:
    these = fresh()
    these.hold("m1", Resources(memory_mb=256))
    assert these.free_memory_mb == 1000 - 357
    these.hold("m1", Resources(memory_mb=256))
    assert these.free_memory_mb == 1000 - 357
    these.release("m1")
    these.release("m1")
    assert these.free_memory_mb == 1000


def test_memory_is_never_promised_twice() -> None:
    these = fresh()
    these.hold("m1", Resources(memory_mb=512))
    with pytest.raises(errors.Failure) as refused:
        these.hold("m2", Resources(memory_mb=512))
    assert refused.value.code == "insufficient_capacity"
    assert "needs 614 MB, 386 MB of 1000 MB free" in refused.value.message
    assert these.free_memory_mb == 386


def test_growing_counts_what_was_held_before() -> None:
    these = fresh()
    these.hold("m1", Resources(memory_mb=512))
    these.hold("m1", Resources(memory_mb=896))
    assert these.free_memory_mb == 0
    with pytest.raises(errors.Failure):
        these.hold("m1", Resources(memory_mb=897))


def test_shared_cpus_are_promised_sixteen_times_and_real_ones_once() -> None:
    these = fresh()
    these.hold("m1", Resources(cpu_kind="performance", cpus=1, memory_mb=1))
    for number in range(2, 4):
        these.hold(f"m{number}", Resources(cpus=8, memory_mb=1))
    with pytest.raises(errors.Failure, match="CPUs, 0 of 2 free"):
        these.hold("m9", Resources(cpus=1, memory_mb=1))


def test_what_runs_already_is_taken_in_though_it_does_not_fit() -> None:
    these = fresh()
    these.hold_anyway("m1", Resources(memory_mb=5000))
    assert these.free_memory_mb == 0
    these.release("m1")
    assert these.free_memory_mb == 1000


def test_a_bid_says_why_not_and_prefers_the_image_here_and_the_app_elsewhere() -> None:
    these = fresh()
    counts = {"app_b": 1}
    bidder = books.Bidder(
        "h1", "lcl", "0000", these, lambda digest: digest == "here", lambda app: counts.get(app, 0)
    )

    def bid(app_id: str = "app_a", digest: str = "", memory_mb: int = 256):
        return bidder.bid(
            BidRequest(
                org_id="o",
                app_id=app_id,
                image_digest=digest,
                resources=Resources(memory_mb=memory_mb),
            )
        )

    assert bid().fits
    assert bid(digest="here").score > bid().score > bid("app_b").score
    too_big = bid(memory_mb=4096)
    assert not too_big.fits
    assert too_big.reasons == ("needs 4216 MB, 1000 MB of 1000 MB free",)


def test_the_books_promise_what_the_vmms_limit_lets_it_take() -> None:
    """Page tables grow with a machine, and with how far it may grow."""
    large = Resources(cpu_kind="performance", cpus=16, memory_mb=131_072)
    growing = Resources(memory_mb=256, max_memory_mb=2_048)
    for size, with_tables in ((large, 131_072 + 100 + 655), (growing, 256 + 100 + 10)):
        held_mb = footprint.memory_mb(size, 100)
        assert held_mb == with_tables
        assert cgroups.limits(size, 100).memory_bytes == held_mb << 20
