"""The API over control with simulated surroundings, and clients with different tokens."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from godwit.api import app as api
from godwit.testing.control import World, world


@dataclass(frozen=True)
class Served:
    """The API, its surroundings and its clients.

    `acme` and `rival` are two organizations, each with a client of its own.
    """

    world: World
    app: FastAPI
    client: Callable[[str | None], httpx.AsyncClient]
    operator: httpx.AsyncClient
    acme: httpx.AsyncClient
    rival: httpx.AsyncClient
    nobody: httpx.AsyncClient


@pytest.fixture
async def served(tmp_path: Path, database_url: str) -> AsyncIterator[Served]:
    async with world(tmp_path, database_url) as made:
        around = made.options(join_address="203.0.113.1:4281")
        app = api.create(around.ctx)
        opened: list[httpx.AsyncClient] = []

        def client(token: str | None) -> httpx.AsyncClient:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            opening = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app), base_url="http://api", headers=headers
            )
            opened.append(opening)
            return opening

        await around.organization("acme")
        await around.organization("rival")
        yield Served(
            world=around,
            app=app,
            client=client,
            operator=client(await around.token()),
            acme=client(await around.token("acme")),
            rival=client(await around.token("rival")),
            nobody=client(None),
        )
        for one in opened:
            await one.aclose()
