"""A platform of the former release, in namespaces of its own: run apart from other tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.testing import former
from godwit.testing import platform as testing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            for mark in (pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(1800)):
                item.add_marker(mark)


@pytest.fixture
def former_platform() -> Iterator[testing.Platform]:
    """Return the former release, up with two organizations."""
    if not former.known():
        pytest.skip(f"this checkout's history does not reach {former.COMMIT[:12]}")
    environ = former.release().environ
    with testing.world(), testing.platform(**environ) as up:
        yield up


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of the example app."""
    folder = tmp_path / "hello"
    shutil.copytree(testing.ROOT / "examples" / "hello", folder)
    return folder
