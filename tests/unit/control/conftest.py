"""Control over a simulated host, and two organizations in it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.base.principal import Principal
from godwit.control.records import App
from godwit.testing.control import World, world


@dataclass(frozen=True)
class Town:
    """A world with two organizations; `shop` is an app of the first."""

    world: World
    acme: Principal
    rival: Principal
    shop: App


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
async def town(around: World) -> Town:
    acme = await around.organization("acme")
    rival = await around.organization("rival")
    shop = await around.app("shop", "acme")
    return Town(around, around.of(acme), around.of(rival), shop)
