"""Machines that move to another region while clients ask for them, and those that cannot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import cluster
from lab.laboratory import Lab
from lab.plan import Host, Plan, Region
from tests.lab.conftest import made
from tests.lab.steady_lab import Steady, clean, owned, processes

SMALL = {"host.memory_mb": 1_280}
LARGE = {"host.memory_mb": 2_560}
pytestmark = [pytest.mark.full, pytest.mark.timeout(1_800)]


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return two regions; a large machine has room in the first one only."""
    plan = Plan(
        name="m1",
        regions={
            "fra": Region(hosts=(Host(settings=LARGE),)),
            "iad": Region(hosts=(Host(settings=SMALL),)),
        },
        settings={"api.rate_limits": False},
    )
    with made(plan, root) as up:
        cluster.start(up, print)
        yield up


@pytest.fixture(scope="module")
def steady(lab: Lab) -> Steady:
    """Return an app with a machine in each region."""
    return Steady.deploy(lab)


def move(steady: Steady, machine: str, *more: str, app: str = "") -> str:
    """Ask for a move; return what the command said."""
    return steady.founder.godwit("machine", "move", machine, "--app", app or steady.name, *more)


def asked(steady: Steady, machine: str, region: str, app: str) -> dict[str, Any]:
    """Ask for a move, or how it goes; return the answer."""
    said: dict[str, Any] = steady.founder.json(
        "machine", "move", machine, "--app", app, "--region", region, "--detach"
    )
    return said


def test_a_machine_moves_to_another_region_and_back_and_no_request_fails(steady: Steady) -> None:
    old, stays = steady.machines["fra"], steady.machines["iad"]
    before = {one["id"]: one for one in steady.shown()}
    with steady.under_load() as tallies:
        for region, left in (("iad", "fra"), ("fra", "iad")):
            new = move(steady, old, "--region", region).strip()
            now = {one["id"]: one for one in steady.shown()}
            assert set(now) == {new, stays}
            assert now[new]["region"] == region
            assert now[new]["state"] == "started"
            assert now[new]["private_ip"] != before[old]["private_ip"]
            assert now[new]["config"] == before[old]["config"]
            # One owner: nothing of the old one is left where it was.
            here, there = steady.edge(left), steady.edge(region)
            assert old not in owned(here)
            assert old not in processes(here)
            assert not (here.tree.directory / "data" / "store" / "machines" / old).exists()
            assert owned(there)[new] == "started"
            # Every region's names and edges know of the new one alone.
            addresses = {one["private_ip"] for one in now.values()}
            for client in ("fra", "iad"):
                eventually(
                    lambda at=client, all_of=addresses: (
                        steady.resolve(at, f"{steady.name}.internal") == all_of
                    )
                )
                assert not steady.resolve(client, f"{old}.vm.{steady.name}.internal")
            before, old = now, new
    clean(tallies)
    answered = {seen.split(" ")[0] for seen in tallies["fra"].seen}
    assert {steady.machines["fra"], old} <= answered
    steady.machines["fra"] = old
    steady.settle()


def test_a_machine_without_room_elsewhere_stays_until_its_move_is_given_up(
    steady: Steady,
) -> None:
    run = ("machine", "run", steady.image, "--app", "large", "--region", "fra")
    steady.founder.godwit("apps", "create", "large", "--org", "personal")
    steady.founder.godwit(*run, "--vm-memory", "1024", "--port", "80:8080/tcp:http")
    (machine,) = (one["id"] for one in steady.shown("large"))
    assert asked(steady, machine, "iad", "large")["state"] == "wanted"
    told = eventually(lambda: asked(steady, machine, "iad", "large")["problem"])
    assert "iad" in told
    assert machine in steady.get("fra", app="large")
    with pytest.raises(errors.Failure, match="on its way to iad"):
        move(steady, machine, "--region", "fra", app="large")
    move(steady, machine, "--cancel", app="large")
    assert [one["id"] for one in steady.shown("large")] == [machine]
    steady.settle()
    steady.founder.godwit("apps", "destroy", "large", "--yes")


def test_a_move_to_a_region_that_is_cut_off_leaves_one_machine_whenever_it_is_given_up(
    steady: Steady,
) -> None:
    machine = steady.machines["fra"]
    with steady.under_load("fra") as tallies:
        steady.lab.cut("iad")
        assert asked(steady, machine, "iad", steady.name)["state"] == "wanted"
        assert eventually(lambda: asked(steady, machine, "iad", steady.name)["problem"])
        move(steady, machine, "--cancel")
        steady.lab.heal("iad")
        steady.settle()
    clean(tallies)
    # Asked again it goes on from there, once the region is back.
    new = move(steady, machine, "--region", "iad").strip()
    assert owned(steady.edge("iad"))[new] == "started"
    assert machine not in owned(steady.edge("fra"))
    (back,) = move(steady, new, "--region", "fra").split()
    steady.machines["fra"] = back
    steady.settle()
