"""Contexts: what is sent, and that it is the same twice."""

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from godwit.base.errors import Failure
from godwit.builder import context


def make(top, **files):
    for name, text in files.items():
        path = top / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


async def unpacked(packed, tmp_path):
    """Return the entries of a packed context, name to content or link."""
    file = tmp_path / "packed.tar"
    with file.open("wb") as sink:
        async for piece in packed.stream():
            sink.write(piece)
    found = {}
    with tarfile.open(file) as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isreg() else None
            found[entry.name] = (
                content.read().decode()
                if content
                else f"-> {entry.linkname}"
                if entry.issym()
                else "dir"
            )
    return found


@pytest.fixture
def top(tmp_path):
    place = tmp_path / "context"
    place.mkdir()
    return make(place, Dockerfile="FROM x")


async def test_everything_is_sent_links_as_links(top, tmp_path):
    make(top, d__f="1")
    (top / "link").symlink_to("/etc/passwd")
    (top / "dirlink").symlink_to("d")
    (top / "empty").mkdir()
    packed = context.pack(top, top / "Dockerfile")
    assert await unpacked(packed, tmp_path) == {
        "Dockerfile": "FROM x",
        "d": "dir",
        "d/f": "1",
        "dirlink": "-> d",
        "empty": "dir",
        "link": "-> /etc/passwd",
    }
    assert packed.dockerfile == "Dockerfile"
    assert packed.described() == "5 files, 7 B" or packed.described().endswith("B")


async def test_fly_toml_stays_at_home_unless_an_ignore_file_says_otherwise(top, tmp_path):
    make(top, fly_dot_toml="app='x'", sub__fly_dot_toml="y")
    assert set(await unpacked(context.pack(top, top / "Dockerfile"), tmp_path)) == {
        "Dockerfile",
        "sub",
        "sub/fly.toml",
    }
    make(top, _dot_dockerignore="sub\n")
    assert set(await unpacked(context.pack(top, top / "Dockerfile"), tmp_path)) == {
        "Dockerfile",
        ".dockerignore",
        "fly.toml",
    }


async def test_the_dockerfile_and_the_ignore_file_are_always_sent(top, tmp_path):
    make(top, _dot_dockerignore="**\n", build__Dockerfile="FROM y", build__other="n")
    packed = context.pack(top, top / "build" / "Dockerfile")
    assert await unpacked(packed, tmp_path) == {
        ".dockerignore": "**\n",
        "build": "dir",
        "build/Dockerfile": "FROM y",
    }
    assert packed.dockerfile == "build/Dockerfile"
    assert packed.ignorefile == ".dockerignore"


async def test_what_is_taken_back_comes_with_its_directories(top, tmp_path):
    make(
        top,
        _dot_dockerignore="*\n!a/b/keep\n",
        a__b__keep="1",
        a__b__other="2",
        a__c__x="3",
        z="4",
    )
    assert set(await unpacked(context.pack(top, top / "Dockerfile"), tmp_path)) == {
        ".dockerignore",
        "Dockerfile",
        "a",
        "a/b",
        "a/b/keep",
    }


async def test_a_dockerfile_from_outside_comes_along(top, tmp_path):
    outside = tmp_path / "Other"
    outside.write_text("FROM z")
    packed = context.pack(top, outside)
    assert (await unpacked(packed, tmp_path))[packed.dockerfile] == "FROM z"


async def test_an_ignore_file_beside_its_dockerfile_wins(top, tmp_path):
    make(top, _dot_dockerignore="a\n", Dockerfile_dot_dockerignore="b\n", a="1", b="2")
    assert set(await unpacked(context.pack(top, top / "Dockerfile"), tmp_path)) >= {"a"}
    named = context.pack(top, top / "Dockerfile", top / ".dockerignore")
    found = await unpacked(named, tmp_path)
    assert "b" in found
    assert "a" not in found


async def test_the_same_directory_gives_the_same_bytes(top, tmp_path):
    make(top, b="2", a="1", d__e="3")
    first = b"".join([p async for p in context.pack(top, top / "Dockerfile").stream()])
    os.chown(top / "a", os.getuid(), os.getgid())
    packed = context.pack(top, top / "Dockerfile")
    assert b"".join([p async for p in packed.stream()]) == first
    assert b"".join([p async for p in packed.stream()]) == first
    saved = tmp_path / "saved"
    packed.save(saved)
    assert saved.read_bytes() == first


async def test_sockets_and_pipes_stay_at_home(top, tmp_path, monkeypatch):
    os.mkfifo(top / "pipe")
    monkeypatch.chdir(top)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert set(await unpacked(context.pack(top, top / "Dockerfile"), tmp_path)) == {
            "Dockerfile"
        }


def test_a_second_name_of_a_file_is_a_file(top):
    make(top, a="12345")
    os.link(top / "a", top / "b")
    packed = context.pack(top, top / "Dockerfile")
    assert packed.size_bytes == 16


def test_a_large_context_names_its_largest_parts(top):
    make(top, node_modules__x="x" * 5000, a="y" * 200)
    packed = context.pack(top, top / "Dockerfile")
    assert packed.warning() == ""
    warning = packed.warning(limit=1000)
    assert warning.index("node_modules (5.0 kB)") < warning.index("a (200 B)")
    assert ".dockerignore" in warning


def test_what_is_not_there_is_said_so(top):
    for directory, dockerfile, ignorefile in (
        (top / "no", top / "Dockerfile", None),
        (top, top / "no", None),
        (top, top / "Dockerfile", top / "no"),
    ):
        with pytest.raises(Failure) as caught:
            context.pack(directory, dockerfile, ignorefile)
        assert caught.value.code == "not_found"


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(top):
    make(top, secret="x")
    (top / "secret").chmod(0)
    with pytest.raises(Failure, match="secret"):
        context.pack(top, top / "Dockerfile")


def test_a_file_that_vanishes_is_named(top):
    packer = context._Packer(io.BytesIO())
    with pytest.raises(Failure, match="gone"):
        packer.add(Path(top / "gone"), "gone")
