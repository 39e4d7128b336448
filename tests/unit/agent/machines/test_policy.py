"""What follows an exit nobody asked for."""

from typing import Any

import pytest

from godwit.agent.machines import policy, records
from godwit.testing import agents

NO_RESTARTS = records.Restarts()


def machine(config: dict[str, Any], restarts: records.Restarts = NO_RESTARTS):
    made = records.from_offer(agents.offer("0000000000000a", config=config), 2, 0)
    return made.model_copy(update={"restarts": restarts})


@pytest.mark.parametrize(
    ("config", "code", "expected"),
    [
        ({}, 0, policy.Settle),
        ({}, 1, policy.Relaunch),
        ({}, -1, policy.Relaunch),
        ({"restart": {"policy": "on-failure"}}, 0, policy.Settle),
        ({"restart": {"policy": "on-fail"}}, 2, policy.Relaunch),
        ({"restart": {"policy": ""}}, 2, policy.Relaunch),
        ({"restart": {"policy": "always"}}, 0, policy.Relaunch),
        ({"restart": {"policy": "no"}}, 1, policy.Settle),
        ({"restart": {"policy": "never"}}, 1, policy.Settle),
        ({"restart": {"policy": "no"}, "auto_destroy": True}, 1, policy.Destroy),
        ({"auto_destroy": True}, 0, policy.Destroy),
        ({"auto_destroy": True}, 1, policy.Relaunch),
    ],
)
def test_policies(config: dict[str, Any], code: int, expected: type) -> None:
    assert isinstance(policy.after_exit(machine(config), code, 1000), expected)


def crash_for_ever(config: dict[str, Any], up_ms: int, most: int = 100) -> list[int]:
    """Return the waits of a machine that crashes after `up_ms` each time."""
    now, waits = 0, []
    present = machine(config)
    for _ in range(most):
        now += up_ms
        then = policy.after_exit(present, 1, now)
        if not isinstance(then, policy.Relaunch):
            break
        waits.append(then.wait_ms)
        now += then.wait_ms
        present = present.model_copy(update={"restarts": then.restarts})
    return waits


def test_a_crash_loop_is_given_up_after_ten_restarts_with_growing_waits() -> None:
    waits = crash_for_ever({}, up_ms=3_000)
    assert waits == [1000, 2000, 4000, 8000, 16_000, 32_000, *[60_000] * 4]


def test_max_retries_is_the_users() -> None:
    assert len(crash_for_ever({"restart": {"max_retries": 3}}, up_ms=1_000)) == 3


def test_always_goes_on_for_ever_at_most_a_minute_apart() -> None:
    waits = crash_for_ever({"restart": {"policy": "always"}}, up_ms=1_000)
    assert len(waits) == 100
    assert max(waits) == 60_000


def test_crashes_that_are_rare_are_never_given_up() -> None:
    waits = crash_for_ever({}, up_ms=400_000)
    assert len(waits) == 100
    assert set(waits) == {1000}


def test_the_last_exit_is_told_when_it_is_given_up() -> None:
    restarts = records.Restarts(count=10, recent=tuple(range(10)))
    then = policy.after_exit(machine({}, restarts), 3, 1000)
    assert isinstance(then, policy.Settle)
    assert then.sentence == "exited with code 3; restarted 10 times within 5 minutes of running"
