"""How an exit is told: the fields clients read, and a sentence."""

from typing import Any

import pytest

from godwit.agent.machines import exits
from godwit.wire import shim


def record(**changes: Any) -> shim.ExitRecord:
    given: dict[str, Any] = {
        "machine_id": "m1",
        "instance_id": "v1",
        "exited_at_ms": 1_790_000_000_000,
        "cause": "guest",
        "vmm": {"exit_code": 0},
    }
    return shim.ExitRecord.model_validate({**given, **changes})


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"guest": {"exit_code": 0}}, 0, "Main child exited normally with code: 0"),
        ({"guest": {"exit_code": 3}}, 3, "Main child exited normally with code: 3"),
        (
            {"guest": {"exit_code": 143, "signal": 15}},
            143,
            "Main child exited with signal 15, code: 143",
        ),
        (
            {"guest": {"exit_code": 137, "signal": 9, "oom_killed": True}},
            137,
            "Main child was killed for want of memory with code: 137",
        ),
        (
            {"cause": "vmm", "vmm": {"signal": 9}},
            137,
            "the VM ended without the guest's word (signal 9)",
        ),
        (
            {"cause": "boot_deadline", "vmm": {"signal": 9}},
            137,
            "the guest did not boot in time (signal 9)",
        ),
        (
            {"failure": {"stage": "spawn", "message": "no such program: foo"}},
            -1,
            "Main child could not be started: no such program: foo",
        ),
    ],
)
def test_exits(changes: dict[str, Any], code: int, sentence: str) -> None:
    found = exits.of_record(record(**changes))
    assert (found.code, found.sentence) == (code, sentence)


def test_clients_find_the_exit_in_both_places() -> None:
    found = exits.of_record(record(guest={"exit_code": 143, "signal": 15}))
    request = found.request(requested=True, restarting=False, restart_count=2)
    assert request["exit_event"] == request["MonitorEvent"]["exit_event"]
    assert request["restart_count"] == 2
    assert request["exit_event"] == {
        "exit_code": 143,
        "guest_exit_code": 143,
        "guest_signal": 15,
        "signal": -1,
        "oom_killed": False,
        "requested_stop": True,
        "restarting": False,
        "exited_at": "2026-09-21T14:13:20.000Z",
    }


def test_the_same_exit_has_the_same_key() -> None:
    one, again = record(guest={"exit_code": 1}), record(guest={"exit_code": 1})
    assert exits.of_record(one).key == exits.of_record(again).key
    assert exits.of_record(record(exited_at_ms=1)).key != exits.of_record(one).key
