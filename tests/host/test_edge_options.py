"""What a port's HTTP options do: HTTP/2 to the app, and the headers of responses."""

from typing import Any

import pytest

from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import Lab, echo, make_lab  # noqa: F401
from tests.host.rust_components import Request, response, web_app

pytestmark = pytest.mark.host


def ports(**options: Any) -> dict[str, Any]:
    port = {"start_port": 80, "end_port": 80, "handlers": ["http"], "http_options": options}
    return {"ports": [port]}


async def test_an_app_may_speak_http_2(servers: Servers) -> None:
    """The app is another edge: it tells what came to it in `Via`."""
    first, app = await servers.add(), await servers.add()
    fact = app.machine("m1")
    hop = ports(h2_backend=True) | {"internal_port": app.lab.port}
    first.machine("m0", local_ipv4="127.0.0.1", service=hop)
    async with web_app(fact.local_ipv4, app.lab.app_port, echo):
        for server in (first, app):
            await server.lab.start(known=1)
        for path in ("/a?b", "/c"):
            got = await first.get(path)
            assert got.status_code == 200, got.text
            headers = dict(got.json()["headers"])
            assert headers["via"] == "1.1 godwit, 2 godwit"
            assert headers["host"] == "hello.godwit.localhost"
            assert got.json()["path"] == path


async def test_responses_have_the_headers_that_the_port_wants(lab: Lab) -> None:
    options = {"pristine": True, "remove": ["X-Secret"], "add": [["x-added", "1"]]}
    fact = lab.machine("m1", service=ports(**options))

    async def answer(_: Request) -> bytes:
        return response(b"ok", "200 OK", "X-Secret: s", "Server: mine")

    async with web_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        got = await lab.get()
    assert got.headers["server"] == "mine"
    assert got.headers["x-added"] == "1"
    assert not {"x-secret", "via", "fly-request-id"} & set(got.headers)
