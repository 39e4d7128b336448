"""The table: total, sane, and what the specification says about single pairs."""

import itertools

import pytest

from godwit.agent.machines import lifecycle, operations
from godwit.agent.machines.lifecycle import Done, Refuse, Run

EVERY = list(itertools.product(lifecycle.STATES, (None, *lifecycle.KINDS), lifecycle.REQUESTS))


def test_every_state_operation_and_request_has_a_verdict() -> None:
    for state, operation, request in EVERY:
        verdict = lifecycle.decide(state, operation, request)
        assert isinstance(verdict, Run | Done | Refuse), (state, operation, request)


def test_every_refusal_says_why() -> None:
    for state, operation, request in EVERY:
        verdict = lifecycle.decide(state, operation, request)
        if isinstance(verdict, Refuse):
            assert verdict.sentence
            assert verdict.code in ("failed_precondition", "not_found")


def test_destroy_by_force_is_always_one_request_away() -> None:
    for state, operation in itertools.product(lifecycle.STATES, (None, *lifecycle.KINDS)):
        verdict = lifecycle.decide(state, operation, "kill")
        assert isinstance(verdict, Run | Done), (state, operation)
        if isinstance(verdict, Run):
            assert verdict.kind == "destroy"


def test_asking_again_for_what_is_so_changes_nothing() -> None:
    reached_by: dict[lifecycle.Request, lifecycle.State] = {
        "start": "started",
        "stop": "stopped",
        "suspend": "suspended",
        "destroy": "destroyed",
        "kill": "destroyed",
    }
    for request, state in reached_by.items():
        assert lifecycle.decide(state, None, request) == Done()


def test_what_an_operation_will_reach_counts_as_reached() -> None:
    assert lifecycle.decide("stopped", "start", "start") == Done()
    assert lifecycle.decide("started", "stop", "stop") == Done()
    assert lifecycle.decide("started", "destroy", "destroy") == Done()


def test_every_resting_state_can_be_reached() -> None:
    targets = {course.target for course in lifecycle.COURSES.values()} - {None}
    assert targets == set(lifecycle.STATES) - {"created"}


def test_every_operation_has_a_course_and_steps() -> None:
    assert set(lifecycle.COURSES) == set(operations.OPERATIONS) == set(lifecycle.KINDS)


def test_stop_and_destroy_break_off_what_brings_a_machine_up() -> None:
    for operation in ("start", "relaunch", "restart", "update"):
        assert lifecycle.decide("stopped", operation, "stop") == Run("stop", at_once=True)
        assert lifecycle.decide("stopped", operation, "kill") == Run("destroy", at_once=True)


def test_a_start_waits_for_a_stop_to_end() -> None:
    assert lifecycle.decide("started", "stop", "start") == Run("start", at_once=False)


def test_a_started_machine_is_not_destroyed_without_force() -> None:
    verdict = lifecycle.decide("started", None, "destroy")
    assert isinstance(verdict, Refuse)
    assert "force" in verdict.sentence


@pytest.mark.parametrize("operation", ["update", "replace"])
@pytest.mark.parametrize("state", ["started", "stopped", "suspended", "failed"])
def test_a_machine_that_is_replaced_refuses_to_start(
    state: lifecycle.State, operation: lifecycle.Kind
) -> None:
    verdict = lifecycle.decide(state, operation, "start")
    assert verdict == Refuse("failed_precondition", "machine getting replaced, refusing to start")


def test_a_request_at_the_edge_waits_for_the_machine_in_the_old_ones_place() -> None:
    assert lifecycle.decide("started", "update", "wake") == Done()
    assert lifecycle.decide("stopped", "replace", "wake") == Run("start", at_once=False)


def test_the_edge_wakes_whatever_may_be_started() -> None:
    for state, operation in itertools.product(lifecycle.STATES, (None, *lifecycle.KINDS)):
        if operation not in ("update", "replace"):
            woken = lifecycle.decide(state, operation, "wake")
            assert woken == lifecycle.decide(state, operation, "start")


@pytest.mark.parametrize("operation", [None, "prepare"])
def test_a_created_machine_cannot_be_started_yet(operation: lifecycle.Kind | None) -> None:
    verdict = lifecycle.decide("created", operation, "start")
    assert verdict == Refuse(
        "failed_precondition", "unable to start machine from current state: 'created'"
    )


def test_transient_names_come_from_the_operation() -> None:
    assert lifecycle.shown("stopped", "start") == "starting"
    assert lifecycle.shown("started", "stop") == "stopping"
    assert lifecycle.shown("started", "update") == "replacing"
    assert lifecycle.shown("started", "restart") == "restarting"
    assert lifecycle.shown("stopped", "destroy") == "destroying"
    assert lifecycle.shown("created", "prepare") == "created"
    assert lifecycle.shown("stopped", None) == "stopped"


def test_memory_is_held_from_the_start_until_it_is_down() -> None:
    assert lifecycle.holds_memory("stopped", "start")
    assert lifecycle.holds_memory("started", None)
    assert lifecycle.holds_memory("started", "stop")
    assert not lifecycle.holds_memory("stopped", None)
    assert not lifecycle.holds_memory("created", "prepare")
    assert not lifecycle.holds_memory("failed", None)


def test_only_the_way_down_never_aborts() -> None:
    down = {kind for kind, course in lifecycle.COURSES.items() if course.tearing_down}
    assert down == {"stop", "settle", "fail", "clear", "destroy"}


def test_every_state_that_is_shown_has_a_meaning() -> None:
    shown = {course.shown for course in lifecycle.COURSES.values()} - {None}
    assert set(lifecycle.MEANINGS) == {*lifecycle.STATES, *shown}
