"""The whole platform, once per session, in namespaces of its own (see the Makefile)."""

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.testing import platform as testing
from godwit.testing import registry
from godwit.testing.platform import ORGANIZATIONS, Platform

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> registry.Tls:
    """Return a certificate for this host's outer address, of an authority the platform trusts."""
    return registry.make_tls(tmp_path_factory.mktemp("tls"), testing.HOST_V4)


@pytest.fixture(scope="session")
def platform(tls: registry.Tls) -> Iterator[Platform]:
    """Return a Godwit that is up with two organizations; at the end, nothing may be left of it."""
    usual = ssl.get_default_verify_paths().cafile
    bundle = tls.authority.with_name("bundle.pem")
    bundle.write_bytes((Path(usual).read_bytes() if usual else b"") + tls.authority.read_bytes())
    addresses = {
        "GODWIT_EDGE_ADDRESSES": f"{testing.HOST_V4},198.51.100.10,2001:db8:2::10",
        "GODWIT_ADDRESSES_V4": "198.51.100.10",
        "GODWIT_ADDRESSES_SHARED_V4": testing.HOST_V4,
        "GODWIT_ADDRESSES_V6": "2001:db8:2::10",
    }
    with testing.world(), testing.platform(SSL_CERT_FILE=str(bundle), **addresses) as up:
        yield up


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example app to launch from."""
    folder = tmp_path_factory.mktemp("src") / "hello"
    shutil.copytree(ROOT / "examples" / "hello", folder)
    return folder


@pytest.fixture(scope="session")
def launched(platform: Platform, source: Path) -> dict[str, str]:
    """Return the apps launched from source, one in each organization."""
    platform.godwit("images", "bootstrap")
    apps = {}
    for org in ORGANIZATIONS:
        folder = source.with_name(f"hello-{org}")
        shutil.copytree(source, folder)
        platform.godwit(
            "launch",
            "--name",
            f"hello-{org}",
            "--org",
            org,
            "--yes",
            "--offline",
            "--force-host-build",
            "--no-ha",
            cwd=folder,
        )
        apps[org] = f"hello-{org}"
    return apps
