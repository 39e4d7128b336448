"""Files of machines that the edge has from their own file servers, by the real programs."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.testing.loopback import free_port
from godwit.wire import facts, guest
from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import QUICK, Lab, curl, echo, make_lab  # noqa: F401
from tests.host.rust_components import raw_app, response, web_app

pytestmark = pytest.mark.host

FILES = 'godwit_edge_files_count{app="hello",org_id="org_1"}'
TAKEN = "godwit_edge_backhaul_taken_count"
STYLE = "body { color: teal }\n" * 200


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Return a folder of files; what is beside it is nobody's business."""
    folder = tmp_path / "app" / "public"
    (folder / "img").mkdir(parents=True)
    (folder / "style.css").write_text(STYLE)
    (folder / "big").write_bytes(bytes(range(256)) * 40_000)
    (folder / "index.html").write_text("no index")
    (tmp_path / "app" / "secret").write_text("secret")
    (folder / "up").symlink_to("../secret")
    (folder / "folder").symlink_to("img")
    return folder


@contextlib.asynccontextmanager
async def file_server(address: str, port: int, public: Path) -> AsyncIterator[None]:
    """Run the guest's file server at an address of loopback."""
    statics = guest.Statics(
        listen=f"{address}:{port}",
        revision="abc",
        directories=(guest.Directory(guest_path=str(public), url_prefix="/static"),),
    )
    with socket.create_server((address, port)) as listening:
        process = await asyncio.create_subprocess_exec(
            str(parts.program("godwit-init")),
            "files",
            statics.model_dump_json(),
            stdin=listening.fileno(),
        )
        try:
            yield
        finally:
            process.kill()
            await process.wait()


def statics(port: int) -> dict[str, Any]:
    return {"statics": facts.Statics(port=port, prefixes=("/static",))}


async def test_a_file_is_answered_without_the_app_and_all_else_by_it(
    lab: Lab, public: Path
) -> None:
    port = free_port()
    fact = lab.machine("m1", **statics(port))
    async with (
        web_app(fact.local_ipv4, lab.app_port, echo) as app,
        file_server(fact.local_ipv4, port, public),
    ):
        await lab.start()
        got = await lab.get("/static/style.css?v=1", headers={"accept-encoding": "identity"})
        assert (got.status_code, got.text) == (200, STYLE)
        assert got.headers["content-type"] == "text/css; charset=utf-8"
        assert got.headers["content-length"] == str(len(STYLE))
        assert got.headers["accept-ranges"] == "bytes"
        assert "last-modified" in got.headers
        assert got.headers["fly-request-id"]
        escaped = await lab.get("/%73tatic/%73tyle.css")
        assert escaped.text == STYLE
        assert escaped.headers["content-encoding"] == "zstd"
        assert escaped.headers["etag"] == f"W/{got.headers['etag']}"
        for tag in (got.headers["etag"], escaped.headers["etag"]):
            known = await lab.get("/static/style.css", headers={"if-none-match": tag})
            assert (known.status_code, known.content) == (304, b"")
        part = await lab.get("/static/big", headers={"range": "bytes=256-511"})
        assert (part.status_code, part.content) == (206, bytes(range(256)))
        whole = await lab.get("/static/big")
        assert whole.content == (public / "big").read_bytes()
        head = await curl("-I", "-H", "Host: hello.godwit.localhost", f"{lab.url}/static/big")
        assert b"content-length: 10240000" in head.lower()
        assert app.requests == []
        assert (await lab.metrics())[FILES] == 7

        for path in ("/", "/static", "/static/missing?a=b", "/static/up", "/static/folder/x"):
            told = (await lab.get(path, headers={"cookie": "a=b"})).json()
            assert told["path"] == path
            assert dict(told["headers"])["cookie"] == "a=b"
        for path in ("/static/%2e%2e/secret", "/static/..%2fsecret", "/static/index.html/"):
            sent = ("--path-as-is", "-H", "Host: hello.godwit.localhost", lab.url + path)
            assert json.loads(await curl(*sent))["path"] == path
        posted = json.loads(
            await curl(
                "-d", "x", "-H", "Host: hello.godwit.localhost", f"{lab.url}/static/style.css"
            )
        )
        assert (posted["method"], posted["bytes"]) == ("POST", 1)
        assert (await lab.metrics())[FILES] == 7


async def test_an_app_that_speaks_http_2_has_files_all_the_same(lab: Lab, public: Path) -> None:
    port = free_port()
    ports = [
        {
            "start_port": 80,
            "end_port": 80,
            "handlers": ["http"],
            "http_options": {"h2_backend": True},
        }
    ]
    fact = lab.machine("m1", service={"ports": ports}, **statics(port))
    async with file_server(fact.local_ipv4, port, public):
        await lab.start()
        assert (await lab.get("/static/style.css")).text == STYLE


async def test_a_file_starts_a_machine_that_sleeps(lab: Lab, public: Path) -> None:
    port = free_port()
    fact = lab.machine("m1", state="stopped", **statics(port))
    async with contextlib.AsyncExitStack() as running:

        async def wake(_: str) -> None:
            await running.enter_async_context(file_server(fact.local_ipv4, port, public))
            lab.agent.say(fact.model_copy(update={"state": "started"}))

        lab.agent.on_wake = wake
        await lab.start()
        assert (await lab.get("/static/style.css")).text == STYLE
        assert lab.agent.wakes == ["m1"]


async def test_a_file_of_a_machine_on_another_host(servers: Servers, public: Path) -> None:
    near, far = await servers.add("fra"), await servers.add("iad")
    port = free_port()
    fact = far.machine("m1", **statics(port))
    async with (
        web_app(fact.local_ipv4, near.lab.app_port, echo) as app,
        file_server(fact.local_ipv4, port, public),
    ):
        await servers.start()
        assert (await near.get("/static/style.css")).text == STYLE
        assert app.requests == []
        assert (await near.get("/static/missing")).json()["path"] == "/static/missing"
    assert (await far.lab.metrics())[TAKEN] == 2
    assert (await far.lab.metrics())[FILES] == 1


async def test_the_slots_of_files_are_given_back(lab: Lab, public: Path) -> None:
    port = free_port()
    fact = lab.machine("m1", service={"hard_limit": 1}, **statics(port))
    async with (
        web_app(fact.local_ipv4, lab.app_port, echo),
        file_server(fact.local_ipv4, port, public),
    ):
        await lab.start()
        paths = ["/static/style.css", "/static/missing", "/static/big"] * 5
        got = await asyncio.gather(*(lab.get(path) for path in paths))
        assert [each.status_code for each in got] == [200] * 15
        assert await lab.agent.count("m1") == (0, 0)


async def test_a_machine_whose_init_serves_no_files_has_its_app_asked(lab: Lab) -> None:
    fact = lab.machine("m1", **statics(free_port()))
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        assert (await lab.get("/static/style.css")).json()["path"] == "/static/style.css"


async def test_a_file_server_that_fails_is_told(lab: Lab) -> None:
    port = free_port()
    lab.limits = QUICK
    fact = lab.machine("m1", **statics(port))

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def ill(_: parts.Request) -> bytes:
        return response(b"", "500 Internal Server Error")

    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        for failing in (
            raw_app(fact.local_ipv4, port, mute),
            web_app(fact.local_ipv4, port, ill),
        ):
            async with failing:
                got = await lab.get("/static/style.css")
                assert got.status_code == 502
                assert "[PR05] the machine's file server failed: " in got.text
