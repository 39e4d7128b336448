"""When a wait is over."""

from godwit.agent.machines.waits import Gone, Impossible, Pending, Reached, Wanted, judge

STARTING = Reached("starting", "v1", "01")
STARTED = Reached("started", "v1", "02")
STOPPING = Reached("stopping", "v1", "03")
STOPPED = Reached("stopped", "v1", "04")
FAILED = Reached("failed", "v1", "05")
DESTROYED = Reached("destroyed", "v1", "06")


def wait(*trail: Reached, want: str | tuple[str, ...], to: str = "started", **more: str):
    states = (want,) if isinstance(want, str) else want
    wanted = Wanted(states, more.get("version"), more.get("after"))
    sentence = more.get("sentence", "")
    return judge(wanted, trail, to, version="v1", sentence=sentence)  # type: ignore[arg-type]


def test_what_is_so_is_reached() -> None:
    assert wait(STARTING, STARTED, want="started") == STARTED


def test_what_was_reached_since_the_start_counts_although_it_has_passed() -> None:
    trail = (STARTING, STARTED, STOPPING, STOPPED)
    assert wait(*trail, want="started", to="stopped") == STARTED


def test_what_is_not_yet_so_is_pending() -> None:
    assert wait(STARTING, want="started") == Pending()
    assert wait(STARTED, want="stopped") == Pending()


def test_any_of_several_states_will_do() -> None:
    assert wait(STARTING, STARTED, want=("stopped", "started", "suspended")) == STARTED


def test_settled_is_any_state_that_is_not_on_its_way() -> None:
    assert wait(STARTING, want="settled") == Pending()
    assert wait(STARTING, STARTED, want="settled") == STARTED
    assert wait(STARTED, STOPPING, want="settled", to="stopped") == Pending()
    assert wait(STOPPING, STOPPED, want="settled", to="stopped") == STOPPED


def test_only_what_comes_after_the_given_event_counts() -> None:
    assert wait(STARTING, STARTED, want="started", after="02") == Pending()
    assert wait(STARTING, STARTED, want="started", after="01") == STARTED


def test_a_pinned_version_must_be_the_one_that_got_there() -> None:
    other = Reached("started", "v0", "01")
    assert wait(other, STARTING, want="started", version="v1") == Pending()
    assert wait(STARTING, want="started", version="v0") == Impossible(
        "version v0 was replaced by v1"
    )


def test_a_failed_machine_does_not_come_up_by_waiting() -> None:
    answer = wait(STARTING, FAILED, want="started", to="failed", sentence="no such program")
    assert answer == Impossible("machine is failed: no such program")
    assert wait(STARTING, FAILED, want="failed", to="failed") == FAILED


def test_a_machine_on_its_way_out_never_starts() -> None:
    going = Reached("destroying", "v1", "05")
    assert isinstance(wait(going, want="started", to="destroyed"), Impossible)
    assert wait(going, want="destroyed", to="destroyed") == Pending()


def test_a_destroyed_machine_is_gone_unless_that_was_wanted() -> None:
    assert wait(STOPPED, DESTROYED, want="suspended", to="destroyed") == Gone()
    assert wait(STOPPED, DESTROYED, want="destroyed", to="destroyed") == DESTROYED
