import pytest

from godwit.client.records import Machine
from godwit.wire import health


def event(kind, number, **request):
    return {"id": str(number), "type": kind, "timestamp": number, "request": request or None}


def exited(number, code=1, **more):
    ended = {"exit_code": code, "requested_stop": False, **more}
    return event("exit", number, exit_event=ended)


def machine(state="started", *, events=(), checks=(), config=None):
    return Machine.model_validate(
        {
            "id": "m",
            "state": state,
            "version": "v1",
            "events": list(reversed(events)),
            "checks": [
                {"name": f"c{number}", "status": status, "output": f"is {status}\nmore"}
                for number, status in enumerate(checks)
            ],
            "config": config or {},
        }
    )


def restarted(number, count, code=1):
    """An exit, and the start by policy that followed."""
    return (
        exited(number, code),
        event("launch", number + 1, restart_count=count),
        event("start", number + 2),
    )


LAUNCHED = (event("launch", 1), event("start", 2))
CHECKED = {"checks": {"c0": {}}, "services": [{"checks": [{}]}]}


@pytest.mark.parametrize(
    ("seen", "up_s", "word", "sentence"),
    [
        (machine("creating"), 0, "not yet", "is creating"),
        (machine(events=LAUNCHED), 3, "not yet", "is up for 3s of 10s"),
        (machine(events=LAUNCHED), 10, "well", "is up"),
        (machine(config=CHECKED), 99, "not yet", "is up, 0 of 2 checks passing"),
        (
            machine(config=CHECKED, checks=("passing", "critical")),
            99,
            "not yet",
            'is up, 1 of 2 checks passing: c1 says "is critical"',
        ),
        (
            machine(config=CHECKED, checks=("passing", "passing")),
            3,
            "not yet",
            "is up for 3s of 10s",
        ),
        (
            machine(config=CHECKED, checks=("passing", "passing")),
            10,
            "well",
            "is up, 2 of 2 checks passing",
        ),
        (
            machine(events=(*LAUNCHED, *restarted(3, 1)), config=CHECKED, checks=("passing",)),
            10,
            "well",
            "is up, 1 of 2 checks passing",
        ),
        (
            machine(
                events=(*LAUNCHED, *restarted(3, 1), *restarted(6, 2)),
                config=CHECKED,
                checks=("passing",),
            ),
            10,
            "not well",
            "keeps crashing: its process exited with code 1",
        ),
        (
            # What came before has left the history.
            machine(events=restarted(9, 4)),
            10,
            "not well",
            "keeps crashing: its process exited with code 1",
        ),
        (machine("failed"), 0, "not well", "is failed"),
        (
            machine("failed", events=(event("launch", 1, message="no entrypoint"),)),
            0,
            "not well",
            "is failed: no entrypoint",
        ),
        (machine("stopped", events=LAUNCHED), 0, "not yet", "is stopped"),
        (
            machine("stopped", events=(*LAUNCHED, exited(3, 2))),
            0,
            "not well",
            "is stopped: its process exited with code 2",
        ),
        (
            machine("stopped", events=(*LAUNCHED, exited(3, 0))),
            0,
            "well",
            "ran and ended with exit code 0",
        ),
        (
            machine(events=(*LAUNCHED, exited(3), event("start", 4))),
            0,
            "not yet",
            "is up for 0s of 10s",
        ),
        (
            machine(events=(*LAUNCHED, exited(3), event("start", 4), exited(5))),
            0,
            "not well",
            "keeps crashing: its process exited with code 1",
        ),
        (
            machine("starting", events=(*LAUNCHED, exited(3, 137, oom_killed=True), exited(4, 1))),
            0,
            "not well",
            "keeps crashing: its process exited with code 1",
        ),
        (
            machine("stopped", events=(*LAUNCHED, exited(3, 137, oom_killed=True))),
            0,
            "not well",
            "is stopped: it ran out of memory",
        ),
        (
            machine("stopped", events=(*LAUNCHED, exited(3, 139, guest_signal=11))),
            0,
            "not well",
            "is stopped: its process was killed by signal 11",
        ),
    ],
)
def test_a_machine_is_judged(seen, up_s, word, sentence):
    assert health.judge(seen, up_s=up_s) == health.Verdict(word, sentence)


def test_readiness_checks_of_containers_are_waited_for_and_no_others():
    ready, alive = {"kind": "readiness"}, {"kind": "liveness"}
    contained = {"containers": [{"healthchecks": [ready, alive, {}]}, {"healthchecks": None}]}
    assert health.configured_checks(contained) == 1
    waits = health.judge(machine(config=contained), up_s=99)
    assert (waits.word, waits.sentence) == ("not yet", "is up, 0 of 1 checks passing")
    assert health.judge(machine(config=contained, checks=("passing",)), up_s=99).word == "well"
    idle = {"containers": [{"healthchecks": [alive, {}]}]}
    assert health.judge(machine(config=idle), up_s=99).sentence == "is up"


def test_what_happened_before_the_present_launch_does_not_count():
    seen = machine(events=(exited(1), exited(2), event("launch", 3), event("start", 4)))
    assert health.judge(seen, up_s=10).word == "well"


@pytest.mark.parametrize(
    ("seen", "well_start", "said"),
    [
        (machine(events=LAUNCHED), "v1/2", ""),
        (machine("failed", events=LAUNCHED), "v1/2", "is failed"),
        (machine(events=(*LAUNCHED, *restarted(3, 1))), "v1/5", ""),
        (
            machine(events=(*LAUNCHED, *restarted(3, 1))),
            "v1/2",
            "crashed after it was well: its process exited with code 1",
        ),
        (
            machine("restarting", events=(*LAUNCHED, exited(3))),
            "v1/2",
            "crashed after it was well: it is restarting: its process exited with code 1",
        ),
        (machine(events=(*LAUNCHED, *restarted(3, 1))), None, ""),
        (
            machine(events=(*LAUNCHED, *restarted(3, 1), *restarted(6, 2))),
            None,
            "crashed after it was well: its process exited with code 1",
        ),
    ],
)
def test_what_happened_since_it_was_well_is_told(seen, well_start, said):
    assert health.lost(seen, "v1", well_start) == said


@pytest.mark.parametrize("asked", ["update", "restart"])
def test_what_happened_before_another_run_was_asked_for_does_not_count(asked):
    crashed = (*LAUNCHED, *restarted(3, 1), exited(6))
    seen = machine("replacing", events=(*crashed, event(asked, 7)))
    assert health.judge(seen, up_s=0) == health.Verdict("not yet", "is replacing")


def test_an_exit_that_was_asked_for_is_no_crash():
    asked = exited(3, 143, requested_stop=True)
    seen = machine(events=(*LAUNCHED, asked, asked, event("start", 4)))
    assert health.judge(seen, up_s=10).word == "well"


def test_it_is_told_when_nothing_but_time_is_missing():
    passing = machine(config=CHECKED, checks=("passing", "passing"), events=LAUNCHED)
    failing = machine(config=CHECKED, checks=("passing", "critical"), events=LAUNCHED)
    assert health.judge(passing, up_s=3).steadying
    assert not health.judge(passing, up_s=10).steadying
    assert not health.judge(failing, up_s=3).steadying


def test_without_smoke_checks_being_started_is_enough():
    assert health.judge(machine(events=LAUNCHED), up_s=0, smoke=False).word == "well"


def test_the_exit_event_is_read_from_both_places_clients_know():
    inside = event("exit", 3, MonitorEvent={"exit_event": {"exit_code": 9}})
    seen = machine("stopped", events=(*LAUNCHED, inside))
    assert "code 9" in health.judge(seen, up_s=0).sentence


def test_every_start_is_told_apart():
    first = machine(events=LAUNCHED)
    second = machine(events=(*LAUNCHED, exited(3), event("start", 4)))
    assert health.last_start(first, "v1") != health.last_start(second, "v1")
