"""One row for each case of (recorded, observed)."""

import itertools

import pytest

from godwit.agent.machines import lifecycle, recovery
from godwit.agent.machines.recovery import (
    Adopt,
    Again,
    Clear,
    Ended,
    Observed,
    Park,
    Recorded,
    Rest,
    Restart,
    Resume,
    Start,
    Verdict,
    recover,
)

NOTHING = Observed(shim=False, tap=False)
ALIVE = Observed(shim=True, tap=True)


@pytest.mark.parametrize(
    ("recorded", "observed", "verdict"),
    [
        (Recorded("started"), ALIVE, Adopt()),
        (Recorded("started"), NOTHING, Ended()),
        (Recorded("started"), Observed(shim=False, tap=True), Ended()),
        (Recorded("started", parked=True), NOTHING, Start()),
        (Recorded("started", parked=True), ALIVE, Adopt()),
        (Recorded("stopped"), NOTHING, Rest()),
        (Recorded("stopped"), Observed(shim=False, tap=True), Clear()),
        (Recorded("stopped"), ALIVE, Clear()),
        (Recorded("failed"), Observed(shim=True, tap=False), Clear()),
        (Recorded("failed"), NOTHING, Clear()),
        (Recorded("stopped", parked=True), NOTHING, Rest()),
        (Recorded("created", "start"), NOTHING, Resume()),
        (Recorded("stopped", "start", plumbed=True), ALIVE, Resume()),
        (Recorded("stopped", "start", plumbed=True), NOTHING, Again()),
        (Recorded("started", "stop"), ALIVE, Resume()),
        (Recorded("started", "stop"), NOTHING, Resume()),
        (Recorded("started"), Observed(shim=True, tap=False), Restart()),
        (Recorded("suspended"), NOTHING, Rest()),
        (Recorded("suspended"), Observed(shim=True, tap=False), Clear()),
        (Recorded("suspended"), Observed(shim=False, tap=True), Clear()),
        (Recorded("suspended", parked=True), NOTHING, Rest()),
        (Recorded("started", "suspend"), ALIVE, Resume()),
        (Recorded("started", "suspend"), NOTHING, Resume()),
        (Recorded("started", "suspend", parked=True), NOTHING, Start()),
        (Recorded("suspended", "resume", plumbed=True), ALIVE, Resume()),
        (Recorded("suspended", "resume", plumbed=True), NOTHING, Again()),
        (Recorded("started", "update", missing_step="hatch"), ALIVE, Park("hatch", runs=True)),
        (Recorded("started", "update", missing_step="hatch"), NOTHING, Park("hatch")),
        (Recorded("stopped", "start", missing_step="hatch"), ALIVE, Park("hatch")),
    ],
)
def test_recovery(recorded: Recorded, observed: Observed, verdict: Verdict) -> None:
    assert recover(recorded, observed) == verdict


def test_every_case_has_a_verdict_and_nothing_running_is_left_alone() -> None:
    kinds = (None, *lifecycle.KINDS)
    flags = (True, False)
    for state, kind, plumbed, parked, shim, tap in itertools.product(
        lifecycle.STATES, kinds, flags, flags, flags, flags
    ):
        recorded = Recorded(state, kind, plumbed=plumbed, parked=parked)
        verdict = recover(recorded, Observed(shim=shim, tap=tap))
        assert not (isinstance(verdict, Rest) and (shim or tap))


def test_what_nobody_recorded_is_an_orphan() -> None:
    found = recovery.orphans(["m1"], [2], frozenset({"m1", "m2"}), frozenset({2, 3}))
    assert found == recovery.Orphans(frozenset({"m2"}), frozenset({3}))
