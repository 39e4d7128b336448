"""Builds over HTTP: a tar up, events down."""

import asyncio
import base64
import json
from dataclasses import replace

from godwit.base import errors
from godwit.control import ports
from tests.unit.api.conftest import Served

URL = "/x/v1/apps/shop/builds"


async def make_app(served: Served) -> None:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})


async def build(
    served: Served, content: object = b"a tar", **query: str
) -> tuple[int, list[dict]]:
    await make_app(served)
    answer = await served.operator.post(URL, params=query, content=content)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return answer.status_code, lines


async def test_the_last_event_is_the_image(served: Served) -> None:
    status, events = await build(
        served, force="true", args='{"A": "b=c"}', dockerfile="deploy/Dockerfile", target="final",
        no_cache="true", offline="1", label="v7",
    )  # fmt: skip
    assert status == 200
    assert [event["type"] for event in events] == ["log", "image"]
    registry = served.world.ctx.options.registry
    assert events[-1]["reference"] == f"{registry}/shop:v7"
    request = served.world.builder.requests[0]
    assert (request.args, request.dockerfile, request.target) == (
        {"A": "b=c"},
        "deploy/Dockerfile",
        "final",
    )
    assert (request.no_cache, request.offline) == (True, True)
    assert served.world.builder.contexts == [b"a tar"]
    assert not request.context.exists()


def encoded(value: object) -> dict[str, str]:
    return {"Godwit-Build-Secrets": base64.b64encode(json.dumps(value).encode()).decode()}


async def test_secrets_come_in_a_header_and_go_nowhere_else(served: Served) -> None:
    await make_app(served)
    answer = await served.operator.post(
        URL,
        params={"force": "true", "labels": '{"org.opencontainers.image.version": "7"}'},
        headers=encoded({"npm": "geheim"}),
        content=b"a tar",
    )
    assert answer.status_code == 200
    assert "geheim" not in answer.text
    request = served.world.builder.requests[0]
    assert request.secrets == {"npm": "geheim"}
    assert request.labels == {"org.opencontainers.image.version": "7"}
    assert "geheim" not in repr(request)
    async with served.world.ctx.store.read() as rows:
        assert "geheim" not in repr(await rows.audit.page(None, before="", limit=100))


async def test_secrets_that_cannot_be_read_are_refused_without_being_shown(served: Served) -> None:
    await make_app(served)
    wrong = [encoded(["geheim"]), encoded({"a b": "geheim"}), encoded({"npm": 1})]
    for headers in [*wrong, {"Godwit-Build-Secrets": "geheim!"}]:
        answer = await served.operator.post(
            URL, params={"force": "true"}, headers=headers, content=b"a tar"
        )
        assert answer.status_code == 400, headers
        assert "geheim" not in answer.text
    assert served.world.builder.requests == []


async def test_a_tag_is_made_when_none_is_given(served: Served) -> None:
    _, events = await build(served, force="true")
    assert ":deployment-01" in events[-1]["reference"]


async def test_a_shared_host_builds_only_when_forced(served: Served) -> None:
    status, body = await build(served)
    assert status == 412
    assert "organizations share this host" in body[0]["error"]
    assert body[0]["hint"]
    assert served.world.builder.requests == []


async def test_force_is_the_operator_s_to_say(served: Served) -> None:
    await make_app(served)
    answer = await served.acme.post(URL, params={"force": "true"}, content=b"a tar")
    assert answer.status_code == 412
    assert "ask the operator" in answer.json()["hint"]
    assert served.world.builder.requests == []


async def test_a_failure_is_the_last_event(served: Served) -> None:
    served.world.builder.failure = errors.Failure(
        "failed_precondition", "RUN: exit 1", hint="look"
    )
    status, events = await build(served, force="true")
    assert status == 200
    assert events[-1] == {
        "type": "error", "code": "failed_precondition", "message": "RUN: exit 1", "hint": "look",
    }  # fmt: skip
    assert list(served.world.ctx.options.uploads.glob("*")) == []


async def test_a_bug_in_the_builder_ends_the_stream_with_an_error(served: Served) -> None:
    served.world.builder.failure = RuntimeError("boom")
    _, events = await build(served, force="true")
    assert events[-1]["type"] == "error"


async def test_wrong_parameters_are_refused_before_anything_is_read(served: Served) -> None:
    for query in (
        {"args": "[]"},
        {"args": '{"A": 1}'},
        {"args": "x"},
        {"args": '{"A B": "1"}'},
        {"dockerfile": "/etc/passwd"},
        {"dockerfile": "../Dockerfile"},
        {"label": "a b"},
        {"force": "maybe"},
    ):
        status, body = await build(served, **{"force": "true", **query})
        assert status == 400, (query, body)
    status, _ = await build(served, b"", force="true")
    assert status == 400


async def test_a_context_over_the_limit_is_refused_and_removed(served: Served) -> None:
    small = served.world.options(upload_bytes=100_000)
    served.app.state.ctx = small.ctx

    async def big():
        for _ in range(50):
            yield b"x" * 65_536

    status, body = await build(served, big(), force="true")
    assert status == 413
    assert "100000" in body[0]["error"]
    assert list(served.world.ctx.options.uploads.glob("*")) == []


async def test_a_client_that_leaves_ends_its_build(served: Served) -> None:
    """As uvicorn tells it: the body, and later that the client is gone."""
    await make_app(served)
    ended = asyncio.Event()

    class Endless:
        async def build(self, request: ports.BuildRequest):
            try:
                yield {"type": "log", "line": "working"}
                await asyncio.Event().wait()
            finally:
                ended.set()

    served.app.state.ctx = replace(served.world.ctx, builder=Endless())
    started = asyncio.Event()
    messages = [{"type": "http.request", "body": b"tar", "more_body": False}]

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        if message.get("body"):
            started.set()

    token = served.operator.headers["authorization"].encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "POST", "path": URL, "raw_path": URL.encode(), "query_string": b"force=true",
        "headers": [(b"authorization", token)], "scheme": "http", "server": ("api", 80),
        "client": ("c", 1), "root_path": "",
    }  # fmt: skip
    async with asyncio.timeout(60):
        await served.app(scope, receive, send)
        await ended.wait()
    assert list(served.world.ctx.options.uploads.glob("*")) == []
