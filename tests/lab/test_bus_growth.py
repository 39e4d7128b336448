"""A region whose bus grows from one server to three while the cluster runs, and then loses one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import cluster
from lab.laboratory import Lab
from lab.node import Host
from lab.plan import Host as Planned
from lab.plan import Plan, Region
from tests.lab.conftest import made

HOSTS = ("fra-1", "fra-2", "fra-3")
pytestmark = [pytest.mark.full, pytest.mark.timeout(1_200)]


@pytest.fixture
def lab(root: Path) -> Iterator[Lab]:
    """Return a region with three hosts, of which the first one is up."""
    plan = Plan(
        name="b1",
        regions={"fra": Region(hosts=(Planned(),) * 3)},
        settings={"host.memory_mb": 512, "api.rate_limits": False},
    )
    with made(plan, root) as up:
        up.host("fra-1").start()
        yield up


def copies(host: Host, stream: str) -> int:
    """Return how many servers keep all of a stream, by the bus of the first host."""
    seed = (host.tree.directory / "data" / "keys" / "control.seed").read_text().strip()

    async def ask() -> int:
        link = await nats.connect(
            "nats://127.0.0.1:4222",
            nkeys_seed_str=seed,
            inbox_prefix="_INBOX_control",
            allow_reconnect=False,
            connect_timeout=5,
        )
        try:
            info = await link.jetstream().stream_info(stream)
        finally:
            await link.close()
        others = (info.cluster and info.cluster.replicas) or ()
        return 1 + sum(bool(one.current and not one.offline) for one in others)

    try:
        return host.run(ask).result(30)
    except (OSError, nats.errors.Error, nats.js.errors.Error, TimeoutError):
        return 0


def members(lab: Lab) -> dict[str, dict[str, Any]]:
    """Return the hosts as the API shows them; none while it does not answer."""
    try:
        return {one["host_id"]: one for one in lab.host("fra-1").json("host", "list")}
    except errors.Failure:
        return {}


def all_well(lab: Lab, count: int) -> bool:
    """Tell whether so many hosts are there and answer control."""
    found = members(lab).values()
    return len(found) == count and all(one["status"] == "ok" for one in found)


def catalog_log(host: Host) -> str:
    """Return what keeps the host's bus and catalog has said."""
    path: Path = host.tree.directory / "data" / "log" / "catalog.log"
    return path.read_text()


def test_a_region_grows_to_three_bus_servers_and_goes_on_without_one(lab: Lab) -> None:
    founder = lab.host("fra-1")
    second, third = map(lab.host, HOSTS[1:])
    # A second server waits for the third; its host is one like any other meanwhile.
    cluster.join(founder, second, "--bus")
    second.start()
    eventually(lambda: all_well(lab, 2))
    cluster.join(founder, third)
    third.start()
    eventually(lambda: all_well(lab, 3))
    token = founder.json("host", "token", "--region", "fra")["token"]
    third.exec("godwit", "host", "serve-bus", "--token", "-", stdin=token, timeout_s=240)
    third.godwit("upgrade")
    assert all("bus" in one["roles"] for one in members(lab).values())
    eventually(lambda: copies(founder, "FACTS_fra") == len(HOSTS))
    # What control asks of the hosts, and they of it, finds another way.
    founder.signal("bus", "STOP")
    try:
        eventually(lambda: all_well(lab, len(HOSTS)))
        host_id = next(one for one in members(lab))
        founder.godwit("host", "cordon", host_id)
        founder.godwit("host", "uncordon", host_id)
    finally:
        founder.signal("bus", "CONT")
    eventually(lambda: copies(founder, "FACTS_fra") == len(HOSTS))
    # One that is removed has no vote any more; the two that are left go on.
    identity = third.tree.directory / "data" / "host.json"
    gone = json.loads(identity.read_text())["host_id"]
    founder.godwit("host", "remove", gone, "--force", "--yes")
    words = f"removed host {gone} has no vote any more"
    eventually(lambda: any(words in catalog_log(host) for host in (founder, second)))
    eventually(lambda: all_well(lab, 2))


@pytest.fixture
def abroad(root: Path) -> Iterator[Lab]:
    """Return a cluster with two hosts in a second region, the first of which serves its bus."""
    plan = Plan(
        name="b2",
        regions={"fra": Region(), "iad": Region(hosts=(Planned(),) * 2)},
        settings={"host.memory_mb": 512, "api.rate_limits": False},
    )
    with made(plan, root) as up:
        cluster.start(up, print)
        yield up


def test_a_region_whose_only_bus_server_is_lost_for_good_gets_another(abroad: Lab) -> None:
    founder, lost, left = map(abroad.host, ("fra-1", "iad-1", "iad-2"))
    eventually(lambda: all_well(abroad, 3))
    serving = next(
        one["host_id"]
        for one in members(abroad).values()
        if one["region"] == "iad" and "bus" in one["roles"]
    )
    lost.lose_power()
    founder.godwit("host", "remove", serving, "--force", "--yes")
    # Nobody can tell it over the bus: it asks where servers join.
    token = founder.json("host", "token", "--region", "iad")["token"]
    left.exec("godwit", "host", "serve-bus", "--token", "-", stdin=token, timeout_s=240)
    left.godwit("upgrade")
    eventually(lambda: all_well(abroad, 2))
    assert all("bus" in one["roles"] for one in members(abroad).values())
