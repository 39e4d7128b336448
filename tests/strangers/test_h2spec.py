"""h2spec against the edge: each case of RFC 7540 and 7541 that it knows, the strict ones included."""

import asyncio
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.host import rust_components as parts
from tests.host.front_lab import OWN, FrontLab, make_front  # noqa: F401
from tests.host.rust_components import response, web_app
from tests.strangers.conftest import stranger

pytestmark = [pytest.mark.host, pytest.mark.full]

_PORT, _PLAIN_PORT = 7482, 7483
_CASE_S = 10
"""How long h2spec waits for an answer; some cases are good when none comes."""
_NOT_HTTP_2 = "http2/3.5: Sends invalid connection preface"
"""Without TLS what begins otherwise is HTTP/1.1, and gets its 400 before the connection ends."""
_RUNS = 3
"""Some cases reset a request and look at what a further frame of it gets; an app whose answer is
out before the reset has come spoils them. A case that fails in every run is a failure."""


@pytest.mark.parametrize("port", [_PORT, _PLAIN_PORT], ids=["tls", "plain"])
async def test_every_case_of_h2spec_passes(front: FrontLab, port: int, tmp_path: Path) -> None:
    services = [front.service(_PORT, "tls", "http"), front.service(_PLAIN_PORT, "http")]
    fact = front.machine("m1", services=services)

    async def page(_: parts.Request) -> bytes:
        return response(b"some words that fill more than one small frame")

    async with web_app(fact.local_ipv4, front.app_port, page):
        await front.start()
        await front.listens(OWN, port)
        runs = [await _run(port, tmp_path) for _ in range(_RUNS)]
    assert set.intersection(*runs) == (set() if port == _PORT else {_NOT_HTTP_2})


async def _run(port: int, folder: Path) -> set[str]:
    """Return the cases that failed, with what was seen."""
    report, log = folder / "report.xml", folder / "log"
    secure = ["--tls", "--insecure"] if port == _PORT else []
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            stranger("h2spec"),
            *("--host", OWN, "--port", str(port), "--timeout", str(_CASE_S)),
            *("--strict", "--junit-report", str(report), *secure),
            stdout=out,
            stderr=out,
        )
        await process.wait()
    assert report.exists(), log.read_text()
    cases = list(ET.parse(report).iter("testcase"))
    assert len(cases) > 90, log.read_text()
    return {
        f"{case.get('package')}: {case.get('classname')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
