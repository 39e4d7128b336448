"""What an operator gives builds, from a file and from the environment."""

from pathlib import Path

import pytest

from godwit.base import settings
from godwit.base.errors import Failure

FILE = """
[build]
compression = "zstd"
[build.proxies]
HTTPS_PROXY = "http://proxy.example:3128"
[build.mounts]
"/etc/pip.conf" = "/etc/godwit/pip.conf"
"""


def test_a_file_names_proxies_and_mounts(tmp_path: Path) -> None:
    path = tmp_path / "godwit.toml"
    path.write_text(FILE)
    found = settings.load(path, {}, {}).build
    assert found.proxies == {"HTTPS_PROXY": "http://proxy.example:3128"}
    assert found.mounts == {"/etc/pip.conf": Path("/etc/godwit/pip.conf")}
    assert found.compression == "zstd"


def test_the_environment_names_them_as_pairs() -> None:
    environ = {
        "GODWIT_BUILD_PROXIES": "HTTP_PROXY=http://p:1/?a=b, NO_PROXY=localhost",
        "GODWIT_BUILD_MOUNTS": "/etc/pip.conf=/srv/pip.conf",
    }
    found = settings.load(None, environ, {}).build
    assert found.proxies == {"HTTP_PROXY": "http://p:1/?a=b", "NO_PROXY": "localhost"}
    assert found.mounts == {"/etc/pip.conf": Path("/srv/pip.conf")}


def test_a_pair_without_a_name_is_refused() -> None:
    with pytest.raises(Failure, match=r"build\.proxies"):
        settings.load(None, {"GODWIT_BUILD_PROXIES": "http://p:1"}, {})


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(Failure, match="compression"):
        settings.load(None, {"GODWIT_BUILD_COMPRESSION": "lzma"}, {})
