import asyncio

import httpx
import pytest

from godwit.base.errors import Failure
from godwit.cli.rollout import remote_file


def fetched(handler):
    async def work():
        async with remote_file.fetched(
            "https://example.org/Dockerfile", http=httpx.MockTransport(handler)
        ) as path:
            return path, path.read_text()

    return asyncio.run(work())


def test_what_is_there_is_a_file_for_a_while():
    path, text = fetched(lambda _: httpx.Response(200, text="FROM x\n"))
    assert text == "FROM x\n"
    assert not path.exists()


def test_a_redirect_is_followed():
    def handler(request):
        if request.url.path == "/Dockerfile":
            return httpx.Response(302, headers={"location": "/other"})
        return httpx.Response(200, text="FROM y\n")

    assert fetched(handler)[1] == "FROM y\n"


def test_what_is_not_there_is_told():
    with pytest.raises(Failure, match="answers 404"):
        fetched(lambda _: httpx.Response(404))


def test_what_is_too_large_is_refused():
    with pytest.raises(Failure, match="more than 10 MiB"):
        fetched(lambda _: httpx.Response(200, content=b"x" * (remote_file.MOST_BYTES + 1)))


def test_a_web_that_cannot_be_reached_is_told():
    def handler(request):
        raise httpx.ConnectError("no route", request=request)

    with pytest.raises(Failure, match=r"cannot fetch .*: no route"):
        fetched(handler)


@pytest.mark.parametrize(
    ("named", "is_one"),
    [("https://x/D", True), ("http://x", True), ("docker/Dockerfile", False), ("ftp://x", False)],
)
def test_addresses_are_told_from_paths(named, is_one):
    assert remote_file.is_address(named) is is_one
