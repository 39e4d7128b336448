"""gRPC's own client and server in Python on both sides of the edge, in all four kinds of call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from tests.host import rust_components as parts
from tests.host.front_lab import NAME, OWN, FrontLab, make_front  # noqa: F401

pytestmark = pytest.mark.host

_PORT, _PLAIN_PORT = 7480, 7481
_SERVICE = "godwit.test.Echo"
_LARGE = 3 << 20
"""Bytes of a message that fits no window of HTTP/2 at once."""
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Context = grpc.aio.ServicerContext[bytes, bytes]


class Echo(grpc.GenericRpcHandler):
    """An app that says back what it is told; messages are bytes, so nothing is generated."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()
        self._kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Many": grpc.unary_stream_rpc_method_handler(self._many),
            "Gather": grpc.stream_unary_rpc_method_handler(self._gather),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Hang": grpc.unary_unary_rpc_method_handler(self._hang),
        }

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Return what answers a method."""
        service, _, method = details.method.strip("/").partition("/")
        return self._kinds.get(method) if service == _SERVICE else None

    @staticmethod
    async def _unary(request: bytes, context: Context) -> bytes:
        asked = dict(context.invocation_metadata() or ())
        context.set_trailing_metadata((("heard", asked.get("said", "")), ("raw-bin", b"\0\xff")))
        return request

    @staticmethod
    async def _many(request: bytes, _: Context) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    @staticmethod
    async def _gather(requests: AsyncIterator[bytes], _: Context) -> bytes:
        return b",".join([request async for request in requests])

    @staticmethod
    async def _chat(requests: AsyncIterator[bytes], _: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"> " + request

    @staticmethod
    async def _fail(_: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there is one: ü", (("why", "so"),))
        raise AssertionError

    async def _hang(self, _: bytes, context: Context) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return b""


@contextlib.asynccontextmanager
async def _served(front: FrontLab) -> AsyncIterator[Echo]:
    """Run the app behind an edge that offers it with TLS and without."""
    options = {"h2_backend": True}
    fact = front.machine(
        "m1",
        services=[
            front.service(_PORT, "tls", "http", http_options=options),
            front.service(_PLAIN_PORT, "http", http_options=options),
        ],
    )
    app, server = Echo(), grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((app,))
    server.add_insecure_port(f"{fact.local_ipv4}:{front.app_port}")
    await server.start()
    try:
        await front.start()
        await front.listens(OWN, _PORT)
        await front.listens(OWN, _PLAIN_PORT)
        yield app
    finally:
        await server.stop(grace=None)


def _channel(front: FrontLab, port: int) -> grpc.aio.Channel:
    if port == _PLAIN_PORT:
        return grpc.aio.insecure_channel(f"{OWN}:{port}", _OPTIONS)
    trust = grpc.ssl_channel_credentials(front.root.read_bytes())
    named = ("grpc.ssl_target_name_override", NAME)
    return grpc.aio.secure_channel(f"{OWN}:{port}", trust, [*_OPTIONS, named])


def _method(name: str) -> str:
    return f"/{_SERVICE}/{name}"


@pytest.mark.parametrize("port", [_PORT, _PLAIN_PORT], ids=["tls", "plain"])
async def test_all_four_kinds_of_call(front: FrontLab, port: int) -> None:
    async with asyncio.timeout(parts.PATIENCE_S), _served(front), _channel(front, port) as channel:
        call = channel.unary_unary(_method("Unary"))(b"hello", metadata=(("said", "yes"),))
        assert await call == b"hello"
        trailers = dict(await call.trailing_metadata())
        assert (trailers["heard"], trailers["raw-bin"]) == ("yes", b"\0\xff")

        many = channel.unary_stream(_method("Many"))(b"1000")
        assert [part async for part in many] == [str(n).encode() for n in range(1000)]

        told = (str(n).encode() for n in range(1000))
        gathered = await channel.stream_unary(_method("Gather"))(told)
        assert gathered == ",".join(map(str, range(1000))).encode()

        chat = channel.stream_stream(_method("Chat"))()
        for word in (b"one", b"two", b"three"):
            # Each answer comes before the next is said: nothing on the way waits for more.
            await chat.write(word)
            assert await chat.read() == b"> " + word
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK


async def test_a_failure_arrives_with_its_status_words_and_metadata(front: FrontLab) -> None:
    async with (
        asyncio.timeout(parts.PATIENCE_S),
        _served(front),
        _channel(front, _PORT) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(_method("Fail"))(b"")
        assert failed.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert failed.value.details() == "there is one: ü"
        assert dict(failed.value.trailing_metadata())["why"] == "so"
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await channel.unary_unary(_method("Nothing"))(b"")
        assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_client_that_gives_up_is_heard_by_the_app(front: FrontLab) -> None:
    async with (
        asyncio.timeout(parts.PATIENCE_S),
        _served(front) as app,
        _channel(front, _PORT) as channel,
    ):
        call = channel.unary_unary(_method("Hang"))(b"")
        await app.begun.wait()
        assert call.cancel()
        await app.cancelled.wait()


async def test_a_deadline_is_kept_and_told_to_the_app(front: FrontLab) -> None:
    async with (
        asyncio.timeout(parts.PATIENCE_S),
        _served(front) as app,
        _channel(front, _PORT) as channel,
    ):
        # The first call is answered, so the second finds its way made and is sure to arrive.
        await channel.unary_unary(_method("Unary"))(b"")
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await channel.unary_unary(_method("Hang"))(b"", timeout=5)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await app.cancelled.wait()


async def test_large_messages_and_many_calls_at_once(front: FrontLab) -> None:
    async with (
        asyncio.timeout(parts.PATIENCE_S),
        _served(front),
        _channel(front, _PORT) as channel,
    ):
        unary = channel.unary_unary(_method("Unary"))
        sent = [bytes([number]) * _LARGE for number in range(4)]
        assert await asyncio.gather(*(unary(message) for message in sent)) == sent
        small = [str(number).encode() for number in range(500)]
        assert await asyncio.gather(*(unary(message) for message in small)) == small
