"""The whole platform, once per session, in namespaces of its own (see the Makefile)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.testing import platform as testing
from godwit.testing.platform import Platform

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Return a Godwit that is up with two organizations; at the end, nothing may be left of it."""
    with testing.world(), testing.platform() as up:
        yield up
