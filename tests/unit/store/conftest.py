"""A migrated database in a file of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godwit.store import database


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[database.Database]:
    opened = await database.open_database(database.sqlite_url(tmp_path / "control.db"))
    yield opened
    await opened.close()
