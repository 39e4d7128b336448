"""A platform whose control database is a PostgreSQL server, in namespaces of its own: run apart."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.testing import platform as testing
from godwit.testing import postgres


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.postgres)
            item.add_marker(pytest.mark.full)
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def server() -> postgres.Server:
    """Return the server."""
    return postgres.shared()


@pytest.fixture(scope="session")
def database(server: postgres.Server) -> str:
    """Return the name of the platform's database."""
    return server.create()


@pytest.fixture(scope="session")
def platform(server: postgres.Server, database: str) -> Iterator[testing.Platform]:
    """Return a Godwit that is up on that server; at the end, nothing may be left of it."""
    url = server.url(database)
    with testing.world(), testing.platform(GODWIT_CONTROL_DATABASE=url) as up:
        yield up
