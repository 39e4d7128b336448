"""Clients whose own region has no machine of the app: the nearest one answers, also when hosts die."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import cluster, plan
from lab.laboratory import Lab
from tests.lab.conftest import made

REGIONS = ("fra", "iad", "nrt")
ROOT = Path(__file__).resolve().parents[2]
URL = "http://hello.godwit.test/"
pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return three joined hosts, with machines of an app in all regions but the first."""
    settings = {"host.memory_mb": 1_536, "api.rate_limits": False}
    with made(plan.simple("w1", REGIONS, settings=settings), root) as up:
        cluster.start(up, print)
        founder = up.host("fra-1")
        founder.godwit("images", "bootstrap")
        folder = founder.tree.directory / "home" / "hello"
        shutil.copytree(ROOT / "examples" / "hello", folder)
        launch = ("launch", "--name", "hello", "--org", "personal", "--yes", "--offline")
        founder.godwit(*launch, "--region", "iad", "--force-host-build", "--no-ha", cwd=folder)
        each = ("--max-per-region", "1", "--region", "iad,nrt")
        founder.godwit("scale", "count", "2", *each, "--yes", cwd=folder)
        yield up


def region_that_answers(lab: Lab) -> str:
    """Return where what the first region's client gets at its own edge comes from."""
    said = lab.node("fra-c1").get(URL, at=lab.host("fra-1").addresses, timeout_s=30)
    return next(region for region in REGIONS if f"region {region}," in said)


def answers(lab: Lab) -> str:
    """Return that region; nothing while no machine answers."""
    try:
        return region_that_answers(lab)
    except errors.Failure:
        return ""


def test_the_nearest_region_answers_and_another_one_when_its_host_loses_its_power(
    lab: Lab,
) -> None:
    assert eventually(lambda: answers(lab))
    # Measured by now: of machines without load the nearer one has all.
    eventually(lambda: len({answers(lab) for _ in range(5)}) == 1)
    nearest = region_that_answers(lab)
    other = next(region for region in ("iad", "nrt") if region != nearest)
    lab.host(f"{nearest}-1").lose_power()
    # Every one is answered, the first too, which goes to a host that is not there any more.
    seen = Counter(region_that_answers(lab) for _ in range(30))
    assert set(seen) == {other}, seen
