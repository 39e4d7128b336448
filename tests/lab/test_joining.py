"""Real servers join: once, with their own keys; one that was removed stays away."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import addressing, plan
from lab.laboratory import Lab
from lab.node import Host
from lab.plan import Plan
from tests.lab.conftest import made

REGIONS = ("fra", "ams")
JOIN = 4_281
pytestmark = pytest.mark.timeout(1200)


def two_regions() -> Plan:
    """Return two hosts that know where the others reach them, the first of which lets join."""
    bare = plan.simple("j1", REGIONS, clients=0, delay_ms=5)
    at = addressing.everywhere(bare)
    hosts = {
        region: {
            "hosts": [{"settings": {"host.endpoints": [f"{at[f'{region}-1'].v4}:51820"]}}],
            "clients": 0,
        }
        for region in REGIONS
    }
    settings = {"listen.join": f"0.0.0.0:{JOIN}", "host.memory_mb": 512}
    return Plan.model_validate(bare.model_dump() | {"regions": hosts, "settings": settings})


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return the first host, up, and a server that has not joined."""
    with made(two_regions(), root) as up:
        up.host("fra-1").start()
        yield up


@pytest.fixture(scope="module")
def first(lab: Lab) -> Host:
    return lab.host("fra-1")


@pytest.fixture(scope="module")
def second(lab: Lab) -> Host:
    return lab.host("ams-1")


def join(host: Host, token: str, region: str = "ams") -> str:
    asked = ("host", "join", "--token", "-", "--region", region)
    return host.exec("godwit", *asked, stdin=token + "\n", timeout_s=240).strip()


def states(first: Host) -> dict[str, tuple[str, str]]:
    return {one["region"]: (one["state"], one["status"]) for one in first.json("host", "list")}


def test_a_server_joins_and_is_one_of_the_hosts(first: Host, second: Host) -> None:
    token = first.godwit("host", "token", "--region", "ams").strip()
    with pytest.raises(errors.Failure, match="is for the region ams, not fra"):
        join(second, token, "fra")
    host_id = join(second, token)
    with pytest.raises(errors.Failure, match=f"is host {host_id} of region ams already"):
        join(second, token)
    second.start()
    wanted = {"fra": ("active", "ok"), "ams": ("active", "ok")}
    eventually(lambda: states(first) == wanted)
    assert {"agent", "bus", "edge", "dns"} <= set(second.components())
    assert not {"control", "keyring", "registry"} & set(second.components())


def test_it_is_one_again_after_it_was_down(first: Host, second: Host) -> None:
    second.stop()
    second.start()
    eventually(lambda: states(first)["ams"] == ("active", "ok"))


def test_one_that_was_removed_loses_its_place_and_does_not_come_back(
    first: Host, second: Host
) -> None:
    (host_id,) = (one["host_id"] for one in first.json("host", "list") if one["region"] == "ams")
    first.godwit("host", "remove", host_id, "--yes")
    assert set(states(first)) == {"fra"}
    eventually(lambda: not second.components())
    with pytest.raises(errors.Failure, match="was removed from its cluster"):
        second.start()
