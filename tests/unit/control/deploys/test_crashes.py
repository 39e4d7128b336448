"""Control dies before and after every write of a run's journal; another one finishes the deploy.

The world afterwards equals that of a deploy nobody disturbed: the same machines, once each, at
the same release, under nobody's lease, and the run has ended the same way.
"""

from typing import Any

import pytest

from godwit.testing.deploys import Mortal
from tests.unit.control.deploys.conftest import CHANGED, STRATEGIES
from tests.unit.control.deploys.copies import Base, finished


async def undisturbed(base: Base, image: str, options: dict[str, Any]) -> tuple[Any, int]:
    async with base.copied() as yard:
        run_id = await yard.begin(CHANGED, image, **options)
        mortal = await yard.carry()
        return await finished(yard, run_id), mortal.writes


async def disturbed(
    base: Base, image: str, options: dict[str, Any], kill_at: tuple[int, str]
) -> tuple[Any, Mortal]:
    async with base.copied() as yard:
        run_id = await yard.begin(CHANGED, image, **options)
        mortal = await yard.carry(kill_at)
        await yard.let_holds_lapse()
        await yard.carry()
        return await finished(yard, run_id), mortal


async def check(base: Base, strategy: str, image: str, every: int) -> None:
    """Kill control around every n-th write, the first of them chosen by the case."""
    options = {"strategy": strategy, "wait_timeout_s": 60}
    wanted, writes = await undisturbed(base, image, options)
    assert wanted["outcome"] == ("failed" if _fails(strategy, image) else "complete")
    assert writes > 5
    wanted["message"] = bool(wanted["message"])
    begin = 1 + (STRATEGIES.index(strategy) * 3 + len(image)) % every
    for number in range(begin, writes + 1, every):
        for when in ("before", "after"):
            found, mortal = await disturbed(base, image, options, (number, when))
            assert mortal.dead.is_set() or mortal.writes < number, (number, when)
            found["message"] = bool(found["message"])
            assert found == wanted, (number, when)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("image", ["nginx:2", "nginx:sick"])
async def test_when_control_dies_the_next_one_finishes_the_deploy(
    base: Base, strategy: str, image: str
) -> None:
    await check(base, strategy, image, every=9)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("image", ["nginx:2", "nginx:sick"])
async def test_whenever_control_dies_the_next_one_finishes_the_deploy(
    base: Base, strategy: str, image: str
) -> None:
    await check(base, strategy, image, every=1)


def _fails(strategy: str, image: str) -> bool:
    return image == "nginx:sick" and strategy != "immediate"
