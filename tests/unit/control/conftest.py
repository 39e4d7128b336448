"""Control over a simulated host, and two organizations in it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.base.principal import Principal
from godwit.control import listing
from godwit.control.machines import Machine
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
async def around(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with world(tmp_path, database_url) as made:
        yield made


@pytest.fixture
async def town(around: World) -> Town:
    acme = await around.organization("acme")
    rival = await around.organization("rival")
    shop = await around.app("shop", "acme")
    return Town(around, around.of(acme), around.of(rival), shop)


async def listed(town: Town, only: listing.Filter | None = None) -> list[Machine]:
    """Return the machines of acme's shop."""
    page = await listing.of_app(town.world.ctx, town.acme, "shop", only or listing.Filter())
    return page.machines
