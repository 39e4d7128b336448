"""The resolver of a region: nodes, apps, and nothing else."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import resolver

NAMES = {
    "fra-1": ("192.0.2.4", "2001:db8:1::4"),
    "*.godwit.test": ("192.0.2.4", "192.0.2.5"),
}
A, AAAA, TXT = 1, 28, 16


def query(name: str, kind: int, *, flags: int = 0x0100, questions: int = 1) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    header = struct.pack("!HHHHHH", 7, flags, questions, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!HH", kind, 1)


def asked(name: str, kind: int) -> tuple[int, list[str]]:
    """Return the code and the addresses of an answer."""
    question = query(name, kind)
    said = resolver.answer(question, NAMES)
    assert said is not None
    number, flags, questions, count, _, _ = struct.unpack_from("!HHHHHH", said)
    assert (number, questions) == (7, 1)
    assert flags & 0x8180 == 0x8180
    assert said[12 : len(question)] == question[12:]
    rest, found = said[len(question) :], []
    for _ in range(count):
        pointer, answered, group, _, length = struct.unpack_from("!HHHIH", rest)
        assert (pointer, answered, group) == (0xC00C, kind, 1)
        found.append(str(ip_address(rest[12 : 12 + length])))
        rest = rest[12 + length :]
    assert rest == b""
    return flags & 15, found


@pytest.mark.parametrize(
    ("name", "kind", "code", "addresses"),
    [
        ("fra-1", A, 0, ["192.0.2.4"]),
        ("FRA-1", AAAA, 0, ["2001:db8:1::4"]),
        ("fra-1", TXT, 0, []),
        ("hello.godwit.test", A, 0, ["192.0.2.4", "192.0.2.5"]),
        ("a.b.godwit.test", A, 0, ["192.0.2.4", "192.0.2.5"]),
        ("hello.godwit.test", AAAA, 0, []),
        ("godwit.test", A, 3, []),
        ("fra-2", A, 3, []),
        ("example.com", A, 3, []),
    ],
)
def test_names_have_the_addresses_they_should(
    name: str, kind: int, code: int, addresses: list[str]
) -> None:
    assert asked(name, kind) == (code, addresses)


def test_answers_and_several_questions_at_once_are_not_answered() -> None:
    assert resolver.answer(query("fra-1", A, flags=0x8000), NAMES) is None
    assert resolver.answer(query("fra-1", A, questions=2), NAMES) is None


@given(st.binary(max_size=64))
def test_what_is_no_query_is_not_answered(garbage: bytes) -> None:
    said = resolver.answer(garbage, NAMES)
    assert said is None or said[:2] == garbage[:2]
