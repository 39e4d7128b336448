"""One request off a guest's connection: whole, bounded, and nothing but HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.guest_api import http
from godwit.wire import guest_api

M = "0000000000000a"
PATCH = (
    b"PATCH /v1/apps/a/machines/m/metadata?x=%20 HTTP/1.1\r\nHost: flaps\r\n"
    b"Content-Length: 2\r\nX-Twice: a\r\nX-Twice: b\r\nConnection: keep-alive\r\n\r\n{}"
)


class Wire:
    """Gives pieces one by one, then the end; keeps what was written."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.written = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data

    async def request(self) -> guest_api.GuestRequest:
        return await http.read_request(M, self.read, self.write)


async def status_of(*pieces: bytes) -> int:
    with pytest.raises(http.NotHttp) as caught:
        await Wire(*pieces).request()
    return caught.value.status


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_request_comes_whole_however_it_is_cut(size: int) -> None:
    pieces = [PATCH[at : at + size] for at in range(0, len(PATCH), size)]
    request = await Wire(*pieces).request()
    assert (request.machine_id, request.method) == (M, "PATCH")
    assert request.target == "/v1/apps/a/machines/m/metadata?x=%20"
    assert request.headers == (("host", "flaps"), ("x-twice", "a"), ("x-twice", "b"))
    assert request.body == b"{}"


async def test_a_body_in_chunks_is_put_together() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = await Wire(head, b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").request()
    assert request.body == b"abc"
    assert request.headers == (("host", "h"),)


async def test_who_waits_to_be_told_to_go_on_is_told() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    wire = Wire(head, b"z")
    assert (await wire.request()).body == b"z"
    assert wire.written == b"HTTP/1.1 100 \r\n\r\n"


async def test_heads_and_bodies_have_an_end() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n"
    endless = [head] + [b"X-More: " + b"a" * 1000 + b"\r\n"] * 40
    assert await status_of(*endless) == 431
    assert await status_of(b"GET /" + b"a" * 20_000) == 431
    most = guest_api.MOST_BODY_BYTES
    assert await status_of(head + b"Content-Length: %d\r\n\r\n" % (most + 1)) == 413
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert await status_of(chunked, *[chunk] * 5) == 413


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab",
        b"GET / HTTP/1.1\r\nHo",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(data: bytes) -> None:
    assert 400 <= await status_of(data) < 600


async def test_nothing_at_all_is_no_request() -> None:
    with pytest.raises(http.Silent):
        await Wire().request()


@given(st.lists(st.binary(max_size=64), max_size=12))
async def test_garbage_is_refused_and_breaks_nothing(pieces: list[bytes]) -> None:
    try:
        await Wire(*[piece for piece in pieces if piece]).request()
    except (http.NotHttp, http.Silent):
        return


def test_an_answer_says_its_length_and_ends_the_connection() -> None:
    answer = guest_api.answer(
        200, (("fly-request-id", "1"), ("content-length", "9"), ("connection", "x")), b"abc"
    )
    head = (
        b"HTTP/1.1 200 OK\r\nfly-request-id: 1\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
    )
    assert http.written(answer) == head + b"abc"
    assert http.written(answer, head_only=True) == head
    assert http.written(guest_api.answer(204, (), b"")) == (
        b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    )
    assert http.written(guest_api.answer(299, (), b"")).startswith(b"HTTP/1.1 299 Unknown\r\n")
