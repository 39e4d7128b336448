import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.cli.scale import fleet, plan
from godwit.cli.scale.counts import Count
from godwit.client.records import Machine


def machine(number, group="web", region="a", state="started", standbys=(), **marks):
    config = {"metadata": {"fly_process_group": group, "fly_platform_version": "v2", **marks}}
    if standbys:
        config["standbys"] = [f"{one:014x}" for one in standbys]
    return Machine(
        id=f"{number:014x}",
        state=state,
        region=region,
        config=config,
        created_at=f"2026-01-01T00:00:{number % 60:02}Z",
    )


def made(count, *machines, regions=("a",), most=None, group="web"):
    wanted = count if isinstance(count, Count) else Count(count)
    return plan.make(plan.Wish(group, wanted, tuple(regions), most), machines)


def numbers(machines):
    return [int(one.id, 16) for one in machines]


def test_new_machines_go_round_the_regions():
    assert made(3, machine(1), regions="ab").create == ("a", "b")
    assert made(3, regions="ba").create == ("b", "b", "a")


def test_the_newest_that_run_go_and_before_them_all_that_rest():
    machines = [machine(1), machine(2, state="stopped"), machine(3), machine(4)]
    assert numbers(made(3, *machines).destroy) == [2]
    assert numbers(made(2, *machines).destroy) == [2, 4]
    assert numbers(made(1, *machines).destroy) == [2, 4, 3]


def test_who_is_stood_by_for_goes_after_the_others():
    machines = [machine(1), machine(2), machine(3, state="stopped", standbys=[2])]
    found = made(1, *machines)
    assert numbers(found.destroy) == [1]
    assert found.standbys == ()


def test_standbys_do_not_count_and_go_with_the_last_they_stand_by_for():
    machines = [machine(1), machine(2), machine(3, state="stopped", standbys=[1, 2])]
    assert not made(2, *machines).changes
    assert made(3, *machines).create == ("a",)
    assert made(1, *machines).standbys == ()
    found = made(0, *machines)
    assert numbers(found.destroy) == [2, 1]
    assert numbers(found.standbys) == [3]
    assert numbers(found.leaving()) == [2, 1, 3]


def test_a_standby_of_a_machine_elsewhere_stays():
    machines = [machine(1), machine(2, "cron"), machine(3, state="stopped", standbys=[1, 2])]
    assert made(0, *machines).standbys == ()


@pytest.mark.parametrize(
    "other",
    [
        machine(9, "worker"),
        machine(9, fly_platform_version=""),
        machine(9, state="destroyed"),
        machine(9, state="destroying"),
        machine(9, "fly_app_console"),
        machine(9, fly_canary="true"),
        machine(9, region="b"),
    ],
)
def test_what_is_not_the_groups_in_these_regions_neither_counts_nor_goes(other):
    assert not made(1, machine(1), other).changes
    assert numbers(made(0, machine(1), other).destroy) == [1]


def test_relative_counts_are_over_the_listed_regions():
    machines = [machine(1), machine(2, region="b"), machine(3, region="b")]
    more = Count(1, relative=True)
    assert made(more, *machines, regions="b").create == ("b",)
    assert made(more, *machines, regions="ab").create == ("a",)


def test_a_most_per_region_moves_machines():
    found = made(2, machine(1), machine(2), regions="ab", most=1)
    assert found.create == ("b",)
    assert numbers(found.destroy) == [2]
    assert found.deltas() == {"a": -1, "b": 1}
    with pytest.raises(errors.Failure, match="do not fit"):
        made(3, regions="ab", most=1)


MACHINES = st.lists(
    st.builds(
        machine,
        st.integers(0, 10**6),
        st.sampled_from(["web", "worker"]),
        st.sampled_from("abc"),
        st.sampled_from(["started", "stopped", "failed", "destroyed"]),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


@given(MACHINES, st.integers(0, 12), st.permutations("abc"), st.integers(1, 3))
def test_what_is_left_and_made_is_what_was_asked(machines, total, order, length):
    regions = tuple(order[:length])
    found = made(total, *machines, regions=regions)
    mine = [one for one in fleet.managed(machines) if one.group() == "web"]
    there = [one for one in mine if one.region in regions]
    assert len(there) + len(found.create) - len(found.destroy) == total
    assert set(numbers(found.destroy)) <= set(numbers(there))
    assert len(set(numbers(found.destroy))) == len(found.destroy)
    assert not (found.create and found.destroy)
    assert set(found.create) <= set(regions)
