"""wrk and h2load, which check every answer, against the edge: none fails."""

import asyncio
import re
import shutil

import pytest

from tests.host.front_lab import OWN, FrontLab, make_front  # noqa: F401
from tests.host.rust_components import response, web_app

pytestmark = [pytest.mark.host, pytest.mark.full]

_PORT, _PLAIN_PORT = 7485, 7486
_REQUESTS = 3000


async def test_wrk_and_h2load_see_no_failed_request(front: FrontLab) -> None:
    services = [front.service(_PORT, "tls", "http"), front.service(_PLAIN_PORT, "http")]
    fact = front.machine("m1", services=services)

    async def page(_: object) -> bytes:
        return response(b"x" * 5000)

    async with web_app(fact.local_ipv4, front.app_port, page):
        await front.start()
        for port in (_PORT, _PLAIN_PORT):
            await front.listens(OWN, port)
        for scheme, port in (("https", _PORT), ("http", _PLAIN_PORT)):
            said = await _run("wrk", "-c", "20", "-t", "1", "-d", "3s", "--timeout", "30s",
                f"{scheme}://{OWN}:{port}/")  # fmt: skip
            assert re.search(r"[1-9]\d* requests in", said), said
            assert "errors" not in said, said
            assert "Non-2xx" not in said, said
        for scheme, port, more in (
            ("https", _PORT, ()),
            ("https", _PORT, ("--h1",)),
            ("http", _PLAIN_PORT, ()),
        ):
            said = await _run("h2load", *more, "-n", str(_REQUESTS), "-c", "5", "-m", "32",
                f"{scheme}://{OWN}:{port}/")  # fmt: skip
            assert f"{_REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout" in said, said
            assert f"status codes: {_REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx" in said, said


async def _run(program: str, *arguments: str) -> str:
    assert shutil.which(program), f"{program} is missing: tools/setup.sh strangers"
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(200):
        said, _ = await process.communicate()
    return said.decode()
