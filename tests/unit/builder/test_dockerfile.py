"""Dockerfiles: stages, images, ports, mistakes."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base.errors import Failure
from godwit.builder import dockerfile


def parse(text, **args):
    return dockerfile.parse(textwrap.dedent(text).lstrip("\n"), args)


def test_stages_and_the_images_they_need():
    found = parse("""
        # syntax=docker/dockerfile:1
        FROM --platform=$BUILDPLATFORM golang:1 AS Build
        RUN --mount=type=bind,from=tools:2,target=/x go build
        FROM scratch as empty
        FROM build AS test
        FROM debian:bookworm-slim
        COPY --from=build /a /a
        COPY --chown=1:1 --from=nginx:latest /b /b
        COPY --from=0 /c /c
    """)
    assert [s.name for s in found.stages] == ["build", "empty", "test", ""]
    assert set(found.images()) == {"debian:bookworm-slim", "nginx:latest", "golang:1", "tools:2"}
    assert found.images("empty") == ()
    assert set(found.images("TEST")) == {"golang:1", "tools:2"}
    assert found.images("1") == ()


@pytest.mark.parametrize(
    ("line", "given", "image"),
    [
        ("FROM ${BASE}", {}, "python:3"),
        ("FROM $BASE", {"BASE": "node:20"}, "node:20"),
        ("FROM ${NO:-debian:12}", {}, "debian:12"),
        ("FROM ${BASE:+alpine}", {}, "alpine"),
        ("FROM debian:${V}-slim", {"V": "x"}, "debian:-slim"),
        ("from python:3 as x", {}, "python:3"),
    ],
)
def test_variables_in_from(line, given, image):
    assert dockerfile.parse(f"ARG BASE=python:3\n{line}", given).stages[0].base == image


def test_a_global_argument_is_for_from_until_a_stage_asks_for_it():
    found = parse(
        """
        ARG PORT=80
        FROM a
        EXPOSE $PORT 443
        ARG PORT
        EXPOSE ${PORT}/udp
    """.replace("$PORT 443", "443")
    )
    assert found.stages[0].ports == ("443/tcp", "80/udp")


def test_ports_come_from_the_target_and_what_it_stands_on():
    found = parse("""
        FROM a AS base
        EXPOSE 9000
        ENV PORT 8080
        EXPOSE $PORT/tcp 53/UDP 7000-7010
        VOLUME ["/data", "/x y"]
        FROM base
        EXPOSE 3000
        VOLUME /a /b
    """)
    assert found.ports() == ("3000/tcp", "9000/tcp", "8080/tcp", "53/udp", "7000/tcp")
    assert found.stages[0].volumes == ("/data", "/x y")
    assert found.stages[1].volumes == ("/a", "/b")


def test_continued_lines_comments_and_escapes():
    found = parse(r"""
        # escape=`
        FROM a AS `
          # in between
          b

        RUN echo \
        EXPOSE 1
    """)
    assert found.stages[0].name == "b"
    assert found.stages[0].line == 2
    assert found.stages[0].ports == ("1/tcp",)


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ("", "no FROM", "FROM"),
        ("# nothing\n", "no FROM", "FROM"),
        ("RUN x\nFROM a", "line 1: RUN comes before", ""),
        ("FROM a\nRUNN x", "line 2: RUNN is not an instruction", "did you mean RUN?"),
        ("FROM a\nCOPPY x y", "line 2", "did you mean COPY?"),
        ("FROM", "names no image", ""),
        ("FROM ${X}", "names no image", ""),
        ("FROM a b", "takes an image", ""),
        ("FROM a AS", "takes an image", ""),
        ("FROM a\nEXPOSE 99999", "not a port", ""),
        ("FROM a\nEXPOSE http", "not a port", ""),
        ("FROM a\nRUN <<EOF\necho\nEOF", "here-documents", "file"),
        ("FROM a\n" + "# x\n" * 400_000, "longer than 1 MiB", ""),
    ],
)
def test_mistakes_have_a_sentence_and_a_line(text, why, hint):
    with pytest.raises(Failure, match=why) as caught:
        dockerfile.parse(text)
    assert caught.value.code == "invalid_argument"
    assert hint in caught.value.hint


def test_a_shift_is_not_a_here_document():
    assert parse("FROM a\nRUN echo $((1<<3)) $((x << y))\n").stages


def test_a_target_that_is_not_there_gets_a_suggestion():
    found = parse("FROM a AS production\nFROM b AS test\n")
    with pytest.raises(Failure) as caught:
        found.target("prodution")
    assert caught.value.hint == "did you mean production?"
    with pytest.raises(Failure) as caught:
        found.target("xyz")
    assert caught.value.hint == "stages: production, test"


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                "FROM a",
                "FROM a AS b",
                "ARG x=1",
                "COPY --from=b x y",
                "RUN a \\",
                "# c",
                "EXPOSE 1",
                "VOLUME [",
                "ENV a",
                "FROM ${x",
                '"',
            ]
        ),
        max_size=8,
    ).map("\n".join)
)
def test_any_text_is_stages_or_a_failure(text):
    try:
        found = dockerfile.parse(text)
    except Failure as failure:
        if failure.code != "invalid_argument":
            raise
    else:
        found.images()
        found.ports()
