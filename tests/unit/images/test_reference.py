"""References: parsed, completed, printed, refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base.errors import Failure
from godwit.images import reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("python", "docker.io", "library/python", "latest", ""),
        ("python:3.11-slim", "docker.io", "library/python", "3.11-slim", ""),
        ("docker.io/python:3", "docker.io", "library/python", "3", ""),
        ("index.docker.io/library/x", "docker.io", "library/x", "latest", ""),
        ("registry-1.docker.io/x", "docker.io", "library/x", "latest", ""),
        ("bitnami/redis", "docker.io", "bitnami/redis", "latest", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("localhost:5050/app", "localhost:5050", "app", "latest", ""),
        (f"localhost:5050/app@{DIGEST}", "localhost:5050", "app", "", DIGEST),
        (f"ghcr.io/a/b:1@{DIGEST}", "ghcr.io", "a/b", "1", DIGEST),
        ("ghcr.io/a/b/c__d/e-f.g:V_1.2-x", "ghcr.io", "a/b/c__d/e-f.g", "V_1.2-x", ""),
        ("[::1]:5050/app:1", "[::1]:5050", "app", "1", ""),
        ("127.0.0.1:5050/a", "127.0.0.1:5050", "a", "latest", ""),
    ],
)
def test_a_reference_is_completed_as_docker_does(text, registry, repository, tag, digest):
    assert reference.parse(text) == reference.Reference(registry, repository, tag, digest)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"),
        (":1", "no name"),
        ("Python", "lower case"),
        ("https://ghcr.io/a", "leave out"),
        ("a//b", "may hold"),
        ("a/", "may hold"),
        ("-a", "may hold"),
        ("a..b/c", "registry"),
        ("x/a..b/c", "may hold"),
        ("a:", "not a tag"),
        ("a:b c", "not a tag"),
        ("a:" + "x" * 129, "not a tag"),
        ("a@sha256:12", "64"),
        ("a@md5:" + "0" * 32, "64"),
        ("a@sha256:" + "A1" * 32, "lower-case"),
        ("ho_st.x/a", "registry"),
        ("ghcr.io:99999999/a", "registry"),
        ("ghcr.io/" + "a" * 256, "longer"),
        ("a/../b", "may hold"),
        ("a\nb", "may hold"),
        ("a@b@c", "64"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text, why):
    with pytest.raises(Failure, match=why) as caught:
        reference.parse(text)
    assert caught.value.code == "invalid_argument"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("docker.io/library/python:3", "python:3"),
        ("bitnami/redis", "bitnami/redis:latest"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        (f"python@{DIGEST}", f"python@{DIGEST}"),
    ],
)
def test_the_familiar_form_is_the_shortest(text, short):
    assert reference.parse(text).familiar == short


@pytest.mark.parametrize(
    ("registry", "near"),
    [
        ("localhost", True),
        ("localhost:5050", True),
        ("127.0.0.1:5050", True),
        ("127.8.9.1", True),
        ("[::1]:5050", True),
        ("docker.io", False),
        ("10.0.0.1:5050", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_only_this_host_is_loopback(registry, near):
    assert reference.is_loopback(registry) is near


component = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", fullmatch=True).filter(
    lambda text: len(text) < 60
)


@given(
    st.sampled_from(["docker.io", "ghcr.io", "localhost:5050", "[::1]:1"]),
    st.lists(component, min_size=1, max_size=3),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.sampled_from(["", DIGEST]),
)
def test_a_printed_reference_reads_back(registry, components, tag, digest):
    text = f"{registry}/{'/'.join(components)}:{tag}" + (f"@{digest}" if digest else "")
    first = reference.parse(text)
    assert reference.parse(str(first)) == first
    assert reference.parse(first.familiar) == first


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_failure(text):
    try:
        found = reference.parse(text)
    except Failure as failure:
        if failure.code != "invalid_argument":
            raise
    else:
        assert reference.parse(str(found)) == found
