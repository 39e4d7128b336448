"""The local base images: what Dockerfiles do with them works, and nothing of this host is in."""

# Blocking in a test holds up nobody.
# ruff: noqa: ASYNC221, PTH208

import asyncio
import os
import shutil
import socket
import subprocess

import pytest

from godwit.images import bases, recipes
from tests.host import bases_here
from tests.unit.images.making import apply

pytestmark = [pytest.mark.host, pytest.mark.net, pytest.mark.timeout(600)]


@pytest.fixture(params=[recipe.names[0] for recipe in recipes.ALL])
async def base(request):
    """Return each base in turn."""
    return await bases_here.base(request.param)


def tree(base, tmp_path):
    blobs = [base.layout.blob(layer.digest) for layer in base.layout.manifest().layers]
    return apply(tmp_path, *(blob.read_bytes() for blob in blobs))


def inside(root, *command):
    """Run something in a base, without a network."""
    around = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c"]
    script = 'mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && root=$1 && shift && exec chroot "$root" "$@"'
    done = subprocess.run(
        [*around, script, "sh", str(root), *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_nothing_of_this_host_is_in_a_base(base, tmp_path):
    root = tree(base, tmp_path)
    sources = (root / "etc/apt/sources.list").read_text()
    assert {line.split()[1] for line in sources.splitlines()} == {
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian-security",
    }
    assert list((root / "etc/apt/sources.list.d").iterdir()) == []
    for name in (
        "etc/resolv.conf",
        "etc/hostname",
        "etc/machine-id",
        "etc/pip.conf",
        "root/.config",
    ):
        assert not (root / name).exists()
    settings = [p.read_text() for p in (root / "etc/apt/apt.conf.d").iterdir()]
    assert not any("proxy" in text.lower() or "cainfo" in text.lower() for text in settings)
    assert not list((root / "usr/local/share").glob("ca-certificates/*"))
    assert list((root / "var/lib/apt/lists").iterdir()) == []
    name = socket.gethostname()
    if len(name) > 3:
        found = subprocess.run(
            ["grep", "-rlF", name, str(root / "etc"), str(root / "var")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == ""


async def test_certificates_are_those_of_the_package(tmp_path):
    root = tree(await bases_here.base("python:3.11-slim"), tmp_path)
    listed = {p.resolve().name for p in (root / "etc/ssl/certs").glob("*.pem") if p.is_symlink()}
    packaged = {
        p.with_suffix("").name for p in (root / "usr/share/ca-certificates").rglob("*.crt")
    }
    assert {name.removesuffix(".crt").removesuffix(".pem") for name in listed} <= packaged
    assert packaged
    bundle = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    assert bundle.count("BEGIN CERTIFICATE") == len(packaged)


async def test_bases_share_their_lowest_layer():
    built = [await bases_here.base(recipe.names[0]) for recipe in recipes.ALL]
    assert len({base.layout.manifest().layers[0].digest for base in built}) == 1


async def test_packages_can_be_managed_in_debian(tmp_path):
    root = tree(await bases_here.base("debian:bookworm-slim"), tmp_path)
    assert "apt " in inside(root, "apt-get", "--version")
    assert inside(root, "dpkg", "--audit") == ""
    assert inside(root, "apt-get", "check") is not None


async def test_python_and_pip_work_as_dockerfiles_expect(tmp_path):
    root = tree(await bases_here.base("python:3.11-slim"), tmp_path)
    assert inside(root, "python", "--version").startswith("Python 3.11.")
    assert (
        inside(root, "python3", "-c", "import ssl, sqlite3, ctypes, zlib; print('ok')") == "ok\n"
    )
    assert "python 3.11" in inside(root, "pip", "--version")
    wheel = tmp_path / "root" / "pkg"
    wheel.mkdir()
    (wheel / "pyproject.toml").write_text(
        '[project]\nname="tiny"\nversion="1"\n[tool.setuptools]\npy-modules=["tiny"]\n'
    )
    (wheel / "tiny.py").write_text("print('tiny runs')")
    inside(root, "pip", "install", "--no-build-isolation", "--no-index", "/pkg")
    assert inside(root, "python", "-m", "tiny") == "tiny runs\n"
    inside(root, "python", "-m", "venv", "/venv")
    assert inside(root, "/venv/bin/pip", "--version")


async def test_nginx_serves_what_is_copied_in(tmp_path):
    base = await bases_here.base("nginx")
    config = base.layout.config().runtime
    assert config.exposed_ports == ("80/tcp",)
    assert config.cmd == ("nginx", "-g", "daemon off;")
    root = tree(base, tmp_path)
    inside(root, "nginx", "-t")
    inside(root, "id", "nginx")
    (root / "usr/share/nginx/html/index.html").write_text("copied in")
    script = (
        "ip link set lo up 2>/dev/null; nginx -g 'daemon off;' & pid=$!;"
        " for i in $(seq 100); do bash -c 'exec 3<>/dev/tcp/127.0.0.1/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3' 2>/dev/null && break; sleep 0.1; done;"
        " kill $pid; wait $pid"
    )
    # Loopback of the fresh network namespace is brought up by the host's program.
    around = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c"]
    outer = 'ip link set lo up && mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && exec chroot "$1" bash -c "$2"'
    done = subprocess.run(
        [*around, outer, "sh", str(root), script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "copied in" in done.stdout, done.stderr
    assert "GET / HTTP/1.0" in done.stdout  # the access log goes to standard output


async def test_a_second_bootstrap_does_nothing(monkeypatch):
    one = bases.Bases(bases_here.directory())
    first = await one.bootstrap()
    monkeypatch.setenv("PATH", "/nonexistent")
    told = []
    assert await one.bootstrap(report=told.append) == first
    assert told == []


@pytest.mark.full
async def test_two_at_once_build_a_base_once(tmp_path):
    """Builds Debian alone, from scratch, twice at the same time."""
    told = []
    pair = [bases.Bases(tmp_path / "bases") for _ in range(2)]
    first, second = await asyncio.gather(
        *(one.bootstrap([recipes.DEBIAN], told.append) for one in pair)
    )
    assert first == second
    assert told == ["installing Debian bookworm from packages"]
    assert [p.name for p in (tmp_path / "bases").glob("tmp-*")] == []
    assert os.listdir(first[0].layout.directory) != []
    shutil.rmtree(first[0].layout.directory / "blobs")
    assert pair[0].find("debian:bookworm-slim") is None
