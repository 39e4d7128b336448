"""Bases: what is taken from this machine's apt settings, and recipes."""

import dataclasses

import pytest

from godwit.base.errors import Failure
from godwit.images import bases, debian, recipes

DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
"""


def test_the_machine_s_mirror_is_used():
    assert debian.mirror_lines(
        [DEB822, "deb https://deb.nodesource.com/node nodistro main"], "bookworm"
    ) == (
        "deb http://mirror.test/debian bookworm main",
        "deb http://mirror.test/debian bookworm-updates main",
        "deb http://mirror.test/debian-security bookworm-security main",
    )


def test_the_one_line_format_is_read():
    text = "# deb http://no.test/debian bookworm main\ndeb [signed-by=/x] http://m.test/debian bookworm main contrib\ndeb-src http://m.test/debian bookworm main\n"
    assert debian.mirror_lines([text], "bookworm") == ("deb http://m.test/debian bookworm main",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://m.test/debian trixie main",
        "deb http://archive.ubuntu.com/ubuntu noble main",
        "deb http://m.test/debian bookworm-updates main",
    ],
)
def test_a_machine_of_another_kind_gives_no_mirror(text):
    assert debian.mirror_lines([text], "bookworm") == ()


def test_only_download_settings_are_taken_over():
    dump = """\
APT "";
APT::Install-Recommends "0";
Acquire::http::Proxy "http://p.test:3128";
Acquire::https::CaInfo "/etc/ca.pem";
Acquire::http::Proxy::deb.debian.org "";
Acquire::Retries "3";
Acquire::Languages "none";
DPkg::Post-Invoke:: "touch /x";
"""
    assert debian.acquire_options(dump) == (
        'Acquire::http::Proxy "http://p.test:3128"',
        'Acquire::https::CaInfo "/etc/ca.pem"',
        'Acquire::Retries "3"',
    )


def test_dressing_puts_files_and_links_in_place(tmp_path):
    (tmp_path / "old").write_text("x")
    recipe = recipes.Recipe(
        slug="x",
        names=("x",),
        files={"/a/b": "text", "/run-me": "#!/bin/sh\n"},
        links={"/l": "/a/b"},
        remove=("/old", "/not-there"),
    )
    debian.dress(tmp_path, recipe)
    debian.dress(tmp_path, recipe)
    assert (tmp_path / "a/b").read_text() == "text"
    assert (tmp_path / "run-me").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "l").readlink().as_posix() == "/a/b"
    assert not (tmp_path / "old").exists()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("debian:bookworm-slim", "debian"),
        ("docker.io/library/python:3.11-slim", "python"),
        ("python:3.11-slim", "python"),
        ("nginx", "nginx"),
        ("nginx:latest", "nginx"),
    ],
)
def test_names_that_dockerfiles_use_have_a_recipe(tmp_path, name, slug):
    recipe = bases.Bases(tmp_path).recipe(name)
    assert recipe is not None
    assert recipe.slug == slug


@pytest.mark.parametrize(
    "name",
    [
        "python:3.12-slim",
        "python:3.11",
        "ghcr.io/x/nginx",
        f"nginx@sha256:{'0' * 64}",
        "NOT A NAME",
        "alpine",
    ],
)
def test_other_names_have_none(tmp_path, name):
    assert bases.Bases(tmp_path).recipe(name) is None


async def test_asking_for_a_base_without_recipe_says_which_there_are(tmp_path):
    with pytest.raises(Failure) as caught:
        await bases.Bases(tmp_path).ensure("alpine", print)
    assert caught.value.code == "not_found"
    assert "python:3.11-slim" in caught.value.hint


def test_a_changed_recipe_or_parent_has_another_key(monkeypatch):
    before = {recipe.slug: recipes.key(recipe) for recipe in recipes.ALL}
    changed = dataclasses.replace(recipes.DEBIAN, remove=("/x",))
    monkeypatch.setattr(recipes, "ALL", (changed, *recipes.ALL[1:]))
    assert recipes.key(changed) != before["debian"]
    assert recipes.key(recipes.PYTHON) != before["python"]
    assert recipes.key(recipes.PYTHON).startswith("python-")


def test_names_are_unique_and_familiar():
    names = [name for recipe in recipes.ALL for name in recipe.names]
    assert len(names) == len(set(names))
    assert all(recipes.by_name(name) for name in names)
