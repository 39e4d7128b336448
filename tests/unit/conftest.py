"""Whatever keeps rows is tested on both kinds of database.

On PostgreSQL, `make test` leaves out what only shows how many things the API answers to and deploys
outlive, not how rows are kept; `make test-full` leaves nothing out.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from godwit.testing import databases

LONG_ON_POSTGRES = (
    "test_authorization.py",
    "test_every_request.py",
    "test_exactly.py",
    "test_malformed.py",
    "test_model.py",
    "test_openapi.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in LONG_ON_POSTGRES and item.get_closest_marker("postgres"):
            item.add_marker(pytest.mark.full)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def kind(request: pytest.FixtureRequest) -> str:
    """Return which kind of database this run of the test is on."""
    return str(request.param)


@pytest.fixture
async def database_url(kind: str, tmp_path: Path) -> AsyncIterator[str]:
    """Give a fresh database with the tables of this release."""
    async with databases.migrated(kind, tmp_path) as url:
        yield url


@pytest.fixture
def empty_url(kind: str, tmp_path: Path) -> Iterator[str]:
    """Give a database without any table."""
    with databases.empty(kind, tmp_path) as url:
        yield url
