"""What control may be made to ask by whoever writes an image reference."""

import asyncio

import pytest

from godwit.base import encoded
from godwit.base.errors import Failure
from godwit.images import reference, registry, resolver
from godwit.images.config import ImageConfig
from godwit.testing.registry import Answer, ScriptedServer
from godwit.wire import host_rpc

QUICK = registry.Patience(connect_s=1, silence_s=1, attempts=1)


@pytest.mark.parametrize(
    "registry_name",
    ["localhost", "LOCALHOST:1", "a.localhost:80", "127.0.0.1:5050", "127.9.9.9", "[::1]:80",
     "[::ffff:127.0.0.1]:80", "169.254.169.254", "[fe80::1]", "0.0.0.0:80", "[::]:1", "224.0.0.1"],
)  # fmt: skip
def test_addresses_of_the_host_are_known(registry_name):
    assert reference.is_of_the_host(registry_name)


@pytest.mark.parametrize("registry_name", ["docker.io", "10.0.0.5:5000", "127.0.0.1.nip.io:80"])
def test_other_addresses_are_not_of_the_host(registry_name):
    assert not reference.is_of_the_host(registry_name)


async def test_nothing_of_the_host_is_asked_but_the_platform_s_registry():
    async with ScriptedServer(lambda _: Answer(404)) as own, ScriptedServer(own_only) as other:
        one = resolver.Resolver(own.address, own_insecure=True, patience=QUICK)
        with pytest.raises(Failure, match="platform's own host") as caught:
            await one.resolve(f"{other.address}/varz:1", "geheim")
        assert caught.value.code == "invalid_argument"
        with pytest.raises(Failure) as caught:
            await one.resolve(f"{own.address}/app:1", None)
        assert caught.value.code == "manifest_unknown"
        assert other.requests == []


def own_only(_):
    raise AssertionError("asked")


async def test_a_registry_that_drips_holds_nobody_for_ever():
    left = asyncio.Event()

    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 Dripping\r\nContent-Length: 9\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one = resolver.Resolver(address, own_insecure=True, within_s=0.2)
        with pytest.raises(Failure) as caught:
            await one.resolve(f"{address}/app:1", None)
        await left.wait()
    assert caught.value.code == "deadline_exceeded"


async def test_a_token_without_end_is_not_read_to_its_end():
    def handler(request):
        if request.path == "/token":
            return Answer(200, b"x" * (8 << 20))
        realm = f'Bearer realm="http://{request.headers["host"]}/token"'
        return Answer(401, b"", {"WWW-Authenticate": realm})

    async with ScriptedServer(handler) as own:
        one = resolver.Resolver(own.address, own_insecure=True, patience=QUICK)
        with pytest.raises(Failure, match="longer than") as caught:
            await one.resolve(f"{own.address}/app:1", "t")
    assert caught.value.code == "invalid_argument"


def test_labels_that_would_fill_an_answer_are_left_out():
    bill = {"bill-of-materials": "x" * 40_000}
    assert resolver.labels_told({"a": "1", **bill, "b": "2"}) == {"a": "1", "b": "2"}
    many = {f"label-{at}": "y" * 1_000 for at in range(100)}
    told = resolver.labels_told(many)
    assert list(told) == list(many)[: len(told)]
    assert 30_000 < encoded.size(told) <= 32_768


class Talkative(resolver.Resolver):
    """Finds an image with a long environment under every name."""

    async def inspect(self, text, token):
        env = tuple(f"V{at}={'x' * 1_000}" for at in range(40))
        image = host_rpc.ImageRef(reference=text, registry="r", repository="a", digest="sha256:0")
        return resolver.Inspected(image, ImageConfig(cmd=("run",), env=env), b"", 1)


async def test_an_image_that_says_too_much_of_how_it_runs_makes_no_machine():
    one = Talkative("registry.example")
    with pytest.raises(Failure, match="at most 32768 are taken") as caught:
        await one.resolve("registry.example/app:1", None)
    assert caught.value.code == "invalid_argument"
