"""A platform none of whose ports is the usual one, in namespaces of its own: run apart."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.testing import platform as testing

MOVED = {
    "api": "127.0.0.1:14280",
    "edge": "0.0.0.0:18080",
    "edge_tls": "0.0.0.0:18443",
    "edge_status": "127.0.0.1:18090",
    "bus": "127.0.0.1:14222",
    "registry": "127.0.0.1:15050",
    "join": "127.0.0.1:14281",
}
"""Every address of `listen`, elsewhere."""
FLYCAST = 14_283
"""Its port alone can be moved; the mesh's two are nobody's before there are other hosts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            for mark in (pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(1200)):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def platform() -> Iterator[testing.Platform]:
    """Return a Godwit that is up on other ports; at the end, nothing may be left of it."""
    moved = MOVED | {"flycast": str(FLYCAST)}
    variables = {f"GODWIT_LISTEN_{name.upper()}": address for name, address in moved.items()}
    with testing.world(), testing.platform(**variables) as up:
        yield up
