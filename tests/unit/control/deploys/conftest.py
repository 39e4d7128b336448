"""Deploys on a simulated host: `yard` has an app `shop` of acme, `base` a release of it."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from godwit.testing.clock import VirtualLoop
from godwit.testing.control import world
from godwit.testing.deploys import Yard
from tests.unit.control.conftest import Town
from tests.unit.control.deploys.copies import Base

STRATEGIES = ["rolling", "immediate", "canary", "bluegreen"]
CHECK = {"interval": "10s", "timeout": "2s", "method": "GET", "path": "/"}
WEB: dict[str, Any] = {
    "app": "shop",
    "http_service": {"internal_port": 8080, "checks": [CHECK]},
}
GROUPS: dict[str, Any] = {
    "app": "shop",
    "processes": {"web": "serve", "worker": "work"},
    "http_service": {"internal_port": 8080, "checks": [CHECK], "processes": ["web"]},
}
CHANGED: dict[str, Any] = {
    "app": "shop",
    "processes": {"web": "serve", "mail": "send"},
    "deploy": {"release_command": "exit 0"},
    "http_service": {"internal_port": 8080, "checks": [CHECK], "processes": ["web"]},
}
"""After `GROUPS`: the group worker is gone, mail is new, and there is a release command."""


def pytest_asyncio_loop_factories() -> Mapping[str, type[VirtualLoop]]:
    """Have time jump in every test of this folder."""
    return {"virtual": VirtualLoop}


@pytest.fixture
def yard(town: Town) -> Yard:
    return Yard(town.world, town.acme)


@pytest.fixture
async def base(tmp_path: Path, database_url: str) -> AsyncIterator[Base]:
    async with world(tmp_path, database_url) as around:
        acme = await around.organization("acme")
        await around.app("shop", "acme")
        yard = Yard(around, around.of(acme))
        await yard.deploy(GROUPS, "nginx:1")
        await around.store.close()
        yield Base(tmp_path, database_url, around, yard)
