"""A cluster of three regions that loses what it can lose, while clients keep asking.

One app has a machine in each region. Whatever was disturbed, afterwards every machine is where it
was, once, and the books, the names and the edges of all regions say so.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import cluster, plan, storm
from lab.laboratory import Lab
from lab.node import Host
from tests.lab.conftest import made
from tests.lab.steady_lab import Steady, clean, owned, processes, source

REGIONS = ("fra", "iad", "nrt")
QUIET = ("bus", "catalog", "agent", "dns", "control", "keyring", "registry")
"""What no request needs that a running machine gets."""
CUT_S = 130.0
GONE_S = 600.0
HOUR_S = 3_600
STORM_S = 120.0
pytestmark = [pytest.mark.full, pytest.mark.timeout(1_800)]


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    settings = {"host.memory_mb": 2_048, "api.rate_limits": False}
    with made(plan.simple("f1", REGIONS, settings=settings), root) as up:
        cluster.start(up, print)
        yield up


@pytest.fixture(scope="module")
def deployed(lab: Lab) -> Steady:
    return Steady.deploy(lab)


@pytest.fixture
def steady(deployed: Steady) -> Iterator[Steady]:
    """Return the app; afterwards it is as before."""
    yield deployed
    deployed.settle()


def kill(host: Host, component: str) -> None:
    """Kill a component and wait until another process is it."""
    before = host.components()[component]
    host.signal(component, "KILL")
    eventually(lambda: host.components().get(component, before) != before)


def run(steady: Steady, app: str, region: str, *more: str) -> str:
    """Create an app with one machine of the image; return the machine's id."""
    listens = ("--port", "80:8080/tcp:http")
    asked = ("machine", "run", steady.image, "--app", app, "--region", region)
    steady.founder.godwit("apps", "create", app, "--org", "personal")
    steady.founder.godwit(*asked, *listens, *more)
    (found,) = steady.shown(app)
    return str(found["id"])


def destroy(steady: Steady, *apps: str) -> None:
    for app in apps:
        steady.founder.godwit("apps", "destroy", app, "--yes")


def test_whatever_is_killed_beside_the_edge_no_request_fails(steady: Steady) -> None:
    with steady.under_load() as tallies:
        for host in steady.lab.hosts.values():
            for component in QUIET:
                if component in host.components():
                    kill(host, component)
                    eventually(lambda here=host: steady.get(here.region))
        steady.settle()
    clean(tallies)
    for region, machine in steady.machines.items():
        answered = {seen.split(" ")[0] for seen in tallies[region].seen}
        assert answered == {machine}, (region, tallies[region].seen)


def test_an_edge_that_is_killed_fails_its_own_clients_only_until_it_is_back(
    steady: Steady,
) -> None:
    for region in REGIONS:
        others = [one for one in REGIONS if one != region]
        with steady.under_load() as tallies:
            kill(steady.edge(region), "edge")
            eventually(lambda here=region: steady.get(here), 30.0)
        clean(tallies, *others)
        with steady.under_load(region) as after:
            eventually(lambda here=region, seen=after: seen[here].good.total() > 40)
        clean(after)


def test_a_region_that_is_cut_off_for_minutes_goes_on_by_itself(steady: Steady) -> None:
    idle = run(steady, "idle", "nrt", "--restart", "no")
    old = run(steady, "old", "fra")
    steady.founder.godwit("machine", "stop", "--app", "idle", idle, "--wait")
    eventually(lambda: steady.resolve("nrt", f"{old}.vm.old.internal"))
    home = source(steady.founder, "home", "fra")
    steady.founder.godwit("apps", "create", "home", "--org", "personal")
    deploy = ("deploy", "--offline", "--force-host-build", "--no-ha")
    everywhere = steady.resolve("fra", "steady.internal")
    began = time.monotonic()
    steady.lab.cut("nrt")
    with steady.under_load("nrt", "fra") as tallies:
        # What is there starts for a request, stops by itself, and is found by name.
        for _ in range(2):
            assert eventually(lambda: idle in steady.get("nrt", app="idle"))
            assert idle in steady.get("nrt", "/leave", app="idle")
            eventually(lambda: owned(steady.edge("nrt"))[idle] == "stopped")
        assert steady.resolve("nrt", "steady.internal") == everywhere
        # What control reaches is deployed, made and destroyed; of what it does not, it says so.
        steady.founder.godwit(*deploy, cwd=home)
        destroy(steady, "old")
        with pytest.raises(errors.Failure, match=r"(?i)host|answer|reach"):
            steady.founder.godwit("machine", "stop", "--app", "steady", steady.machines["nrt"])
        there = {one["region"]: one for one in steady.shown()}
        assert there["nrt"]["host_status"] != "ok"
        assert there["iad"]["host_status"] == "ok"
        eventually(lambda: time.monotonic() - began > CUT_S, 2 * CUT_S)
        steady.lab.heal("nrt")
        steady.settle()
    clean(tallies)
    (left,) = steady.shown("idle")
    assert (left["id"], left["state"]) == (idle, "stopped")
    assert eventually(lambda: steady.resolve("nrt", "home.internal"))
    assert not steady.resolve("nrt", f"{old}.vm.old.internal")
    assert eventually(lambda: idle in steady.get("nrt", app="idle"))
    destroy(steady, "idle", "home")


@contextlib.contextmanager
def no_bus(hosts: Iterable[Host]) -> Iterator[None]:
    """Kill the bus of each host, and have none that is started again say a word."""
    stopped: dict[str, int] = {}
    done = threading.Event()

    def hold() -> None:
        while not done.wait(0.1):
            for host in hosts:
                found = host.components().get("bus", 0)
                if found and found != stopped.get(host.name):
                    with contextlib.suppress(errors.Failure):
                        host.signal("bus", "STOP" if host.name in stopped else "KILL")
                        stopped[host.name] = found

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        done.set()
        holding.join()
        for host in hosts:
            with contextlib.suppress(errors.Failure):
                host.signal("bus", "CONT")


def test_without_any_bus_for_ten_minutes_no_request_fails(steady: Steady) -> None:
    idle = run(steady, "idle", "nrt", "--restart", "no")
    eventually(lambda: idle in steady.get("nrt", app="idle"))
    hosts = [host for host in steady.lab.hosts.values() if "bus" in host.components()]
    began = time.monotonic()
    with steady.under_load() as tallies:
        with no_bus(hosts):
            eventually(lambda: time.monotonic() - began > GONE_S / 2, GONE_S)
            # A machine stops by itself and starts for a request.
            for _ in range(2):
                assert idle in steady.get("nrt", "/leave", app="idle")
                eventually(lambda: owned(steady.edge("nrt"))[idle] == "stopped")
                assert eventually(lambda: idle in steady.get("nrt", app="idle"))
            with pytest.raises(errors.Failure):
                steady.founder.godwit("machine", "stop", "--app", "idle", idle)
            eventually(lambda: time.monotonic() - began > GONE_S, GONE_S)
        steady.settle()
    clean(tallies)
    with no_bus(hosts):
        # An edge begins with its last view.
        kill(steady.edge("iad"), "edge")
        assert eventually(lambda: steady.get("iad"))
    destroy(steady, "idle")
    eventually(lambda: idle not in owned(steady.edge("nrt")))


def test_a_host_whose_clock_is_an_hour_ahead_and_then_right_again_is_believed(
    steady: Steady,
) -> None:
    host = steady.edge("iad")
    for ahead_s in (HOUR_S, 0):
        host.stop()
        host.set_clock(ahead_s)
        host.start()
        steady.settle()
        machine = run(steady, "late", "iad")
        name = f"{machine}.vm.late.internal"
        for here in ("fra", "nrt"):
            eventually(lambda at=here, asked=name: steady.resolve(at, asked))
        steady.founder.godwit("machine", "stop", "--app", "late", machine)
        for here in ("fra", "nrt"):
            eventually(lambda at=here: not steady.resolve(at, "late.internal"))
        destroy(steady, "late")


def test_the_host_of_control_may_be_an_hour_behind_the_others(steady: Steady) -> None:
    for ahead_s in (HOUR_S, 0):
        for region in ("iad", "nrt"):
            steady.edge(region).stop()
            steady.edge(region).set_clock(ahead_s)
            steady.edge(region).start()
        steady.settle()
        machine = run(steady, "behind", "nrt")
        eventually(lambda made=machine: made in steady.get("nrt", app="behind"))
        destroy(steady, "behind")
        eventually(lambda made=machine: made not in owned(steady.edge("nrt")))


def test_of_two_hosts_that_claim_one_machine_the_one_in_the_books_keeps_it(
    steady: Steady,
) -> None:
    machine = steady.machines["nrt"]
    (owner, claimant) = (steady.hosts()[region]["host_id"] for region in ("nrt", "iad"))
    again = Path(__file__).with_name("offer_again.py")
    asked = (machine, owner, "nrt", claimant, "iad")
    steady.founder.exec("python3", str(again), *asked, timeout_s=120)
    host = steady.edge("iad")
    assert eventually(lambda: machine not in owned(host) and machine not in processes(host))
    assert owned(steady.edge("nrt"))[machine] == "started"


@pytest.mark.parametrize("seed", [20_261])
def test_faults_drawn_by_chance_leave_everything_as_it_was(
    steady: Steady, seed: int, record_property: Callable[[str, object], None]
) -> None:
    with steady.under_load() as tallies:
        storm.run(steady.lab, storm.draw(steady.lab.plan, seed, STORM_S), print)
        steady.settle(480.0)
    for region in REGIONS:
        record_property(region, tallies[region].sentence())
    with steady.under_load() as after:
        eventually(lambda: all(one.good.total() > 40 for one in after.values()))
    clean(after)


def test_a_host_that_was_removed_while_it_was_away_does_not_bring_its_machines_back(
    deployed: Steady,
) -> None:
    steady, host = deployed, deployed.edge("nrt")
    machine, host_id = steady.machines["nrt"], steady.hosts()["nrt"]["host_id"]
    steady.lab.cut("nrt")
    steady.founder.godwit("host", "remove", host_id, "--force", "--yes")
    assert machine not in {one["id"] for one in steady.shown()}
    # Cut off, it knows nothing of it and goes on.
    assert machine in steady.get("nrt")
    steady.lab.heal("nrt")
    eventually(lambda: not host.components())
    eventually(lambda: not processes(host))
    with pytest.raises(errors.Failure, match="was removed from its cluster"):
        host.start()
    left = {one["private_ip"] for one in steady.shown()}
    for region in ("fra", "iad"):
        eventually(lambda here=region: steady.resolve(here, "steady.internal") == left)
        assert steady.machines[region] in steady.get(region)
