"""Deploys under steady load through the edge: not one request fails."""

from collections.abc import Iterator

import pytest

from godwit.testing.load import Shape, Tally
from godwit.testing.platform import Platform
from godwit.testing.rollouts import Steady

KINDS = {"kept", "fresh", "posts", "slow", "echoes"}


@pytest.fixture
def image(platform: Platform, launched: dict[str, str]) -> str:
    found: str = platform.machines(launched["reed"])[0]["config"]["image"]
    return found


@pytest.fixture
def steady(platform: Platform, image: str, machines: int) -> Iterator[Steady]:
    yield Steady.make(platform, "steady", "reed", image, machines)
    platform.godwit("apps", "destroy", "steady", "--yes")


def judge(tally: Tally, version: int) -> None:
    """Fail where a request did."""
    assert tally.failed == 0, tally.sentence()
    assert set(tally.good) == KINDS, tally.sentence()
    assert any(seen.endswith(f" {version}") for seen in tally.seen), tally.seen


@pytest.mark.parametrize("machines", [2])
def test_a_rolling_deploy_under_load_fails_no_request(steady: Steady) -> None:
    before = steady.ids()
    with steady.under_load(Shape(clients=1, pause_s=0.3, slow=1, slow_s=2)) as tally:
        steady.deploy("rolling", version=2)
    judge(tally, 2)
    assert steady.ids() == before


@pytest.mark.full
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("machines", [4])
@pytest.mark.parametrize("strategy", ["rolling", "bluegreen"])
def test_four_machines_replaced_under_long_requests(steady: Steady, strategy: str) -> None:
    before = steady.ids()
    with steady.under_load(Shape(clients=2, pause_s=0.3, slow=4, slow_s=30)) as tally:
        steady.deploy(strategy, version=2)
    judge(tally, 2)
    assert tally.reopened > 0
    assert len(steady.ids()) == 4
    assert (steady.ids() == before) is (strategy == "rolling")
