"""When a schedule is due: counted from the creation, never in the past, never skipped."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.machines import schedules

CREATED = datetime(2026, 1, 31, 14, 30, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def due(name: str, after: datetime, created: datetime = CREATED) -> datetime:
    found = schedules.next_due({"schedule": name}, ms(created), ms(after))
    assert found is not None
    return datetime.fromtimestamp(found / 1000, UTC)


def test_without_a_schedule_nothing_is_due() -> None:
    assert schedules.next_due({}, 0, 0) is None
    assert schedules.next_due({"schedule": ""}, 0, 0) is None
    assert schedules.next_due({"schedule": "yearly"}, 0, 0) is None


def test_the_first_run_is_one_period_after_the_creation() -> None:
    assert due("hourly", CREATED) == CREATED + timedelta(hours=1)
    assert due("daily", CREATED) == CREATED + timedelta(days=1)
    assert due("weekly", CREATED) == CREATED + timedelta(days=7)
    assert due("monthly", CREATED) == datetime(2026, 2, 28, 14, 30, tzinfo=UTC)


def test_a_month_without_that_day_runs_on_its_last_and_the_next_is_not_shortened() -> None:
    february = due("monthly", CREATED)
    assert due("monthly", february) == datetime(2026, 3, 31, 14, 30, tzinfo=UTC)
    assert due("monthly", datetime(2027, 12, 31, 14, 30, tzinfo=UTC)).year == 2028
    assert due("monthly", datetime(2028, 2, 1, tzinfo=UTC)).day == 29


def test_a_clock_that_went_back_before_the_creation_does_not_run_it_earlier() -> None:
    before = CREATED - timedelta(days=400)
    for name in ("hourly", "daily", "weekly", "monthly"):
        assert due(name, before) == due(name, CREATED)


@given(
    st.sampled_from(["hourly", "daily", "weekly", "monthly"]),
    st.integers(1_577_836_800_000, 1_900_000_000_000),
    st.integers(0, 10**11),
)
def test_what_is_due_lies_ahead_by_at_most_one_period(name: str, born: int, later_ms: int) -> None:
    found = schedules.next_due({"schedule": name}, born, born + later_ms)
    longest = {"hourly": 3_600_000, "daily": 86_400_000, "weekly": 604_800_000}
    assert found is not None
    assert 0 < found - (born + later_ms) <= longest.get(name, 31 * 86_400_000)
    if name != "monthly":
        assert (found - born) % longest[name] == 0
