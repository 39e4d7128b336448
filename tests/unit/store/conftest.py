"""A migrated database of its own."""

from collections.abc import AsyncIterator

import pytest

from godwit.store import database


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[database.Database]:
    opened = await database.open_database(database_url)
    yield opened
    await opened.close()
