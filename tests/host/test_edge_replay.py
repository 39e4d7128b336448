"""fly-replay: apps that answer by saying where their request is to be sent."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import HELLO, Servers, make_servers  # noqa: F401
from tests.host.edge_lab import PATIENT, QUICK, Lab, echo, make_lab  # noqa: F401
from tests.host.front_lab import NAME, OWN, SHARED, FrontLab, make_front  # noqa: F401
from tests.host.rust_components import Request, WebApp, response, web_app

pytestmark = pytest.mark.host

JSON = "Content-Type: application/vnd.fly.replay+json"


def replay(value: str, *more: str, body: bytes = b"never shown") -> Callable[[Request], Any]:
    """Return a handler that always replays."""

    async def answer(_: Request) -> bytes:
        return response(body, "409 Conflict", f"fly-replay: {value}", *more)

    return answer


def document(**fields: Any) -> Callable[[Request], Any]:
    """Return a handler that always replays by a document."""

    async def answer(_: Request) -> bytes:
        return response(json.dumps(fields).encode(), "200 OK", JSON)

    return answer


@pytest.fixture(name="apps")
async def make_apps(lab: Lab) -> AsyncIterator["Apps"]:
    made = Apps(lab)
    yield made
    for one in made.running:
        await one.stop()


class Apps:
    """Apps of one host, each with machines."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.running: list[WebApp] = []

    async def add(
        self, machine_id: str, app: str = "hello", handler: Any = echo, **changes: Any
    ) -> WebApp:
        fact = self.lab.machine(machine_id, app=app, **changes)
        one = WebApp(fact.local_ipv4, self.lab.app_port, handler)
        await one.start()
        self.running.append(one)
        return one


async def test_a_request_with_its_body_goes_where_the_app_says(lab: Lab, apps: Apps) -> None:
    first = await apps.add("m1", handler=replay("app=other;state=a=1"))
    await apps.add("m2", app="other")
    await lab.start()
    body = b"x" * 900_000
    async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
        got = await client.put(lab.url + "/p?q=1", headers=HELLO, content=body)
    assert got.status_code == 200
    told = got.json()
    headers = dict(told["headers"])
    assert (told["method"], told["path"], told["bytes"]) == ("PUT", "/p?q=1", len(body))
    source = dict(field.split("=", 1) for field in headers["fly-replay-src"].split(";"))
    assert (source["instance"], source["region"], source["state"]) == ("m1", "lcl", "a=1")
    assert len(source["t"]) == 16
    assert "fly-replay" not in got.headers
    assert len(first.requests) == 1


async def test_a_document_may_change_the_request(lab: Lab, apps: Apps) -> None:
    change = {
        "path": "/new?x=y",
        "delete_headers": ["cookie"],
        "set_headers": [{"name": "X-Told", "value": "yes"}],
    }
    await apps.add("m1", handler=document(app="other", transform=change))
    await apps.add("m2", app="other")
    await lab.start()
    got = await lab.get("/old", headers={"Cookie": "a=b"})
    told = got.json()
    headers = dict(told["headers"])
    assert told["path"] == "/new?x=y"
    assert headers["x-told"] == "yes"
    assert "cookie" not in headers


async def test_a_body_that_is_too_long_is_not_replayed(lab: Lab, apps: Apps) -> None:
    await apps.add("m1", handler=replay("app=other"))
    await apps.add("m2", app="other")
    await lab.start()
    async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
        got = await client.put(lab.url, headers=HELLO, content=b"x" * 1_100_000)
    assert got.status_code == 502
    assert "[PA01]" in got.text


async def test_replays_come_to_an_end(lab: Lab, apps: Apps) -> None:
    app = await apps.add("m1", handler=replay("app=hello"))
    await lab.start()
    got = await lab.get()
    assert (got.status_code, "[PA02]" in got.text) == (502, True)
    assert len(app.requests) == 11


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("instance=m1;prefer_instance=m2", "PA03"),
        ("nonsense", "PA03"),
        ("app=nobody", "PA04"),
        ("app=strangers", "PA05"),
        ("app=beside", "PA05"),
        ("region=xyz", "PR04"),
        ("instance=m9", "PR04"),
    ],
)
async def test_what_cannot_be_followed_says_why(
    lab: Lab, apps: Apps, value: str, code: str
) -> None:
    lab.limits = QUICK
    await apps.add("m1", handler=replay(value))
    stranger = await apps.add("m2", app="strangers", org_id="org_2", network_id="net_2")
    beside = await apps.add("m3", app="beside", network_id="net_3")
    await lab.start()
    got = await lab.get()
    assert got.status_code >= 500
    assert f"[{code}]" in got.text
    assert "never shown" not in got.text
    assert stranger.requests == beside.requests == []
    refused = f'godwit_edge_refused_requests_count{{status="{got.status_code}",code="{code}"}}'
    assert (await lab.metrics())[refused] == 1


async def test_an_organization_may_let_its_apps_replay_into_its_other_networks(
    lab: Lab, apps: Apps
) -> None:
    lab.limits = QUICK
    asks = {"app": ""}

    async def handler(request: Request) -> bytes:
        return response(b"", "200 OK", f"fly-replay: app={asks['app']}")

    await apps.add("m1", handler=handler)
    stranger = await apps.add("m2", app="strangers", org_id="org_2", network_id="net_3")
    beside = await apps.add("m3", app="beside", network_id="net_3")
    told = parts.app("hello", replays_across_networks=True)
    parts.keep_view(lab.folder / "view.json", told)
    await lab.start()
    asks["app"] = "beside"
    assert (await lab.get()).status_code == 200
    assert len(beside.requests) == 1
    # Another organization's stays closed, whatever its network is called.
    asks["app"] = "strangers"
    got = await lab.get()
    assert (got.status_code, "[PA05]" in got.text) == (502, True)
    assert stranger.requests == []


async def test_elsewhere_is_any_machine_but_the_one_that_asks(lab: Lab, apps: Apps) -> None:
    async def answer(request: Request) -> bytes:
        if request.header("fly-replay-src"):
            return response(b"second")
        return response(b"", "200 OK", "fly-replay: elsewhere=true")

    machines = [await apps.add(f"m{number}", handler=answer) for number in range(2)]
    await lab.start()
    for _ in range(10):
        assert (await lab.get()).text == "second"
    assert [len(one.requests) for one in machines] == [10, 10]


async def test_a_replay_that_reaches_nobody_falls_back(lab: Lab, apps: Apps) -> None:
    lab.limits = QUICK

    async def answer(request: Request) -> bytes:
        failed = request.header("fly-replay-failed")
        if failed:
            return response(failed.encode())
        asked = "fly-replay: app=other;fallback=force_self;timeout=300ms"
        return response(b"", "200 OK", asked)

    await apps.add("m1", handler=answer)
    lab.machine("m2", app="other")
    await lab.start()
    got = await lab.get()
    assert got.status_code == 200, got.text
    said = dict(field.split("=") for field in got.text.split(";"))
    assert (said["app"], said["replay_source"]) == ("other", "m1")
    assert said["reason"] in {"timeout", "retries_exhausted"}
    assert int(said["elapsed_ms"]) > 200


async def test_an_error_of_the_target_is_no_reason_to_fall_back(lab: Lab, apps: Apps) -> None:
    async def broken(_: Request) -> bytes:
        return response(b"broken", "500 Internal Server Error")

    await apps.add("m1", handler=replay("app=other;fallback=prefer_self"))
    await apps.add("m2", app="other", handler=broken)
    await lab.start()
    got = await lab.get()
    assert (got.status_code, got.text) == (500, "broken")


async def test_a_stopped_target_is_started(lab: Lab, apps: Apps) -> None:
    await apps.add("m1", handler=replay("app=other;instance=m2"))
    target = await apps.add("m2", app="other", state="stopped")
    fact = lab.agent.machines["m2"]

    async def wake(_: str) -> None:
        lab.agent.say(fact.model_copy(update={"state": "started"}))

    lab.agent.on_wake = wake
    await lab.start()
    assert (await lab.get()).status_code == 200
    assert lab.agent.wakes == ["m2"]
    assert len(target.requests) == 1


async def test_a_preferred_machine_that_does_not_answer_is_named(lab: Lab, apps: Apps) -> None:
    await apps.add("m1", handler=replay("app=other;prefer_instance=gone"))
    await apps.add("m2", app="other")
    await lab.start()
    headers = dict((await lab.get()).json()["headers"])
    assert headers["fly-preferred-instance-unavailable"] == "gone"


async def test_what_is_remembered_is_not_asked_again(lab: Lab, apps: Apps) -> None:
    more = (
        "fly-replay-cache: /a/*",
        "fly-replay-cache-ttl-secs: 60",
        "fly-replay-cache-allow-bypass: yes",
    )

    async def target(request: Request) -> bytes:
        if request.path == "/a/forget":
            back = ("fly-replay: app=hello", "fly-replay-cache: invalidate")
            return response(b"", "200 OK", *back)
        return await echo(request)

    async def answer(request: Request) -> bytes:
        if request.path == "/a/forget" and request.header("fly-replay-src"):
            return response(b"forgotten")
        return response(b"", "200 OK", "fly-replay: app=other", *more)

    first = await apps.add("m1", handler=answer)
    await apps.add("m2", app="other", handler=target)
    await lab.start()

    async def status(path: str, **headers: str) -> tuple[str | None, bool]:
        told = dict((await lab.get(path, headers=headers)).json()["headers"])
        return told.get("fly-replay-cache-status"), "fly-replay-src" in told

    assert await status("/a/1") == ("miss", True)
    assert await status("/a/2") == ("hit", False)
    assert len(first.requests) == 1
    assert (await status("/a/3", **{"fly-replay-cache-control": "skip"}))[1]
    assert len(first.requests) == 2
    assert (await lab.get("/a/forget")).text == "forgotten"
    assert await status("/a/4") == ("miss", True)


async def test_what_is_remembered_is_not_for_who_insists_on_a_machine(
    lab: Lab, apps: Apps
) -> None:
    lab.limits = QUICK
    more = ("fly-replay-cache: /*", "fly-replay-cache-ttl-secs: 60")

    async def answer(request: Request) -> bytes:
        if request.header("x-stay"):
            return response(b"stayed")
        return response(b"", "200 OK", "fly-replay: app=other", *more)

    first = await apps.add("m1", handler=answer)
    await apps.add("m2", app="other")
    await lab.start()
    for _ in range(2):
        assert (await lab.get()).status_code == 200
    assert len(first.requests) == 1
    for name, value in [("fly-force-instance-id", "m1"), ("fly-force-region", "lcl")]:
        got = await lab.get(headers={name: value, "x-stay": "yes"})
        assert (got.status_code, got.text) == (200, "stayed")
    for name in ("fly-force-instance-id", "fly-force-region"):
        got = await lab.get(headers={name: "gone"})
        assert (got.status_code, "[PR04]" in got.text) == (503, True)
    # A preference is none that the app that replays has to know of.
    told = dict((await lab.get(headers={"fly-prefer-region": "lcl"})).json()["headers"])
    assert told["fly-replay-cache-status"] == "hit"
    assert len(first.requests) == 3


@pytest.mark.parametrize("wanted", ['region="fra,any"', "prefer_instance=gone"])
async def test_a_target_that_restarts_is_waited_for(lab: Lab, apps: Apps, wanted: str) -> None:
    await apps.add("m1", handler=replay(f"app=other;{wanted}"))
    await apps.add("m2", app="other", state="restarting")
    await lab.start()
    waiting = parts.spawn(lab.get())
    await lab.counts("godwit_edge_waiting", 1)
    lab.agent.say(lab.agent.machines["m2"].model_copy(update={"state": "started"}))
    assert (await waiting).status_code == 200


async def test_what_an_app_at_its_own_address_is_asked_leads_no_other_apps_requests(
    front: FrontLab,
) -> None:
    """A request there may have any host name: what is remembered of it is that app's alone."""
    more = ("fly-replay-cache: /*", "fly-replay-cache-ttl-secs: 60")
    asked = {"hello": replay("app=trap", *more), "good": replay("app=far", *more)}
    asked |= dict.fromkeys(["trap", "far"], echo)
    made: dict[str, WebApp] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name, handler in asked.items():
            services = [front.service(7501, "http")]
            fact = front.machine(f"m-{name}", app=name, services=services)
            app = web_app(fact.local_ipv4, front.app_port, handler)
            made[name] = await stack.enter_async_context(app)
        await front.start()
        await front.listens(OWN, 7501)
        await front.listens(SHARED, 7501)
        foreign = {"Host": NAME.replace("hello", "good")}

        async def ask(address: str) -> None:
            async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
                got = await client.get(f"http://{address}:7501/a", headers=foreign)
            assert got.status_code == 200

        def counts() -> list[int]:
            return [len(made[name].requests) for name in ("hello", "trap", "good", "far")]

        await ask(OWN)
        assert counts() == [1, 1, 0, 0]
        await ask(SHARED)
        assert counts() == [1, 1, 1, 1]
        # Each has its own by now.
        await ask(OWN)
        await ask(SHARED)
        assert counts() == [1, 2, 1, 2]


@pytest.mark.parametrize("by", ["cookie", "header"])
async def test_a_port_has_replays_remembered_for_each_client(
    lab: Lab, apps: Apps, by: str
) -> None:
    async def answer(request: Request) -> bytes:
        if request.path == "/a/forget" and request.header("fly-replay-src"):
            return response(b"forgotten")
        return response(b"", "200 OK", f"fly-replay: instance=m{request.path[-1]};app=other")

    async def target(request: Request) -> bytes:
        if request.path == "/a/forget":
            more = "fly-replay-cache: invalidate"
            return response(b"", "200 OK", "fly-replay: app=hello", more)
        return await echo(request)

    cache = {"path_prefix": "/a/", "ttl_seconds": 600, "type": by, "name": "sid"}
    options = {"replay_cache": [cache | {"allow_bypass": True}]}
    port = {"start_port": 80, "end_port": 80, "handlers": ["http"], "http_options": options}
    first = await apps.add("m1", handler=answer, service={"ports": [port]})
    second = await apps.add("m2", app="other", handler=target)
    third = await apps.add("m3", app="other", handler=target)
    await lab.start()

    async def status(path: str, sid: str = "", **headers: str) -> tuple[str | None, bool]:
        told = {"cookie": f"x=y; sid={sid}"} if by == "cookie" else {"sid": sid}
        got = await lab.get(path, headers=headers | (told if sid else {}))
        seen = dict(got.json()["headers"])
        return seen.get("fly-replay-cache-status"), "fly-replay-src" in seen

    assert await status("/a/2", "one") == ("miss", True)
    assert await status("/a/3", "two") == ("miss", True)
    # From here on the path says nothing: each client goes where it went.
    assert await status("/a/3", "one") == ("hit", False)
    assert await status("/a/2", "two") == ("hit", False)
    assert ([r.path for r in second.requests], [r.path for r in third.requests]) == (
        ["/a/2", "/a/3"],
        ["/a/3", "/a/2"],
    )
    asked = len(first.requests)
    assert await status("/a/2") == (None, True)
    assert await status("/b/2", "one") == (None, True)
    skip = {"fly-replay-cache-control": "skip"}
    assert await status("/a/2", "one", **skip) == ("bypass", True)
    assert len(first.requests) == asked + 3
    told = {"cookie": "sid=one"} if by == "cookie" else {"sid": "one"}
    assert (await lab.get("/a/forget", headers=told)).text == "forgotten"
    assert await status("/a/2", "one") == ("miss", True)
    assert await status("/a/3", "two") == ("hit", False)


async def test_no_client_is_remembered_into_another_organization(lab: Lab, apps: Apps) -> None:
    """Whose an app is counts each time: its name may be another's by then."""
    cache = {"path_prefix": "/", "ttl_seconds": 600, "type": "header", "name": "sid"}
    options = {"replay_cache": [cache]}
    port = {"start_port": 80, "end_port": 80, "handlers": ["http"], "http_options": options}
    lab.limits = QUICK
    first = await apps.add("m1", handler=replay("app=other"), service={"ports": [port]})
    second = await apps.add("m2", app="other")
    await lab.start()
    for _ in range(2):
        assert (await lab.get(headers={"sid": "one"})).status_code == 200
    assert (len(first.requests), len(second.requests)) == (1, 2)
    moved = lab.agent.machines["m2"].model_copy(update={"org_id": "org_2", "network_id": "net_2"})
    lab.agent.say(moved)

    async def refused() -> bool:
        got = await lab.get(headers={"sid": "one"})
        return got.status_code == 502 and "[PA05]" in got.text

    async with asyncio.timeout(parts.PATIENCE_S):
        while not await refused():
            await asyncio.sleep(0.02)
    taken = len(second.requests)
    assert await refused()
    assert len(second.requests) == taken


async def test_a_websocket_is_opened_where_the_app_says(lab: Lab, apps: Apps) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\n\r\n"
        )
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.close()

    await apps.add("m1", handler=replay("app=other"))
    fact = lab.machine("m2", app="other")
    async with parts.raw_app(fact.local_ipv4, lab.app_port, serve):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        async with asyncio.timeout(parts.PATIENCE_S):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"abc")
            assert await reader.readexactly(3) == b"ABC"
        writer.close()


async def test_a_region_is_reached_by_way_of_its_host(servers: Servers) -> None:
    near, far = await servers.add("fra"), await servers.add("iad")
    here, there = near.machine("m1"), far.machine("m2")

    async def answer(request: Request) -> bytes:
        return await replay('region="xyz,us"')(request)

    async with (
        web_app(here.local_ipv4, near.lab.app_port, answer),
        web_app(there.local_ipv4, near.lab.app_port, echo),
    ):
        await servers.start()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
            got = await client.post(near.lab.url, headers=HELLO, content=b"body")
        headers = dict(got.json()["headers"])
        assert headers["fly-replay-src"].startswith("instance=m1;region=fra;t=")
        assert got.json()["bytes"] == 4
        # The other way round the answer that replays comes from another host.
        preferred = {"fly-prefer-region": "us"}
        assert (await near.get(headers=preferred)).json()["path"] == "/"
        forced = await far.get(headers={"fly-force-region": "fra"})
        assert dict(forced.json()["headers"])["fly-region"] == "iad"


async def test_a_replays_time_counts_at_another_host_too(servers: Servers) -> None:
    """The far edge alone would wait a minute for its machine to start."""
    near, far = await servers.add(), await servers.add()

    async def answer(request: Request) -> bytes:
        failed = request.header("fly-replay-failed")
        if failed:
            return response(failed.encode())
        return response(b"", "200 OK", "fly-replay: app=other;fallback=force_self;timeout=1s")

    async def never(_: str) -> str | None:
        await asyncio.Event().wait()
        return None

    fact = near.machine("m1")
    far.machine("m2", app="other", state="stopped")
    far.lab.agent.on_wake = never
    async with web_app(fact.local_ipv4, near.lab.app_port, answer):
        await servers.start()
        began = time.monotonic()
        got = await near.get()
        took_s = time.monotonic() - began
    assert got.status_code == 200, got.text
    assert "reason=timeout" in got.text
    assert far.lab.agent.wakes == ["m2"]
    assert 1 <= took_s < PATIENT.wake_ms / 1_000 / 2


async def test_a_name_that_is_another_organizations_now_is_not_replayed_into(
    servers: Servers,
) -> None:
    """The edge that is asked knows what the asking one, cut off, has not heard of."""
    servers.limits = QUICK
    near, far = await servers.add(), await servers.add()
    fact = near.machine("m1")
    stale = far.machine("m2", app="other", app_id="app_before")
    async with (
        web_app(fact.local_ipv4, near.lab.app_port, replay("app=other")),
        web_app(stale.local_ipv4, near.lab.app_port, echo) as stranger,
    ):
        await servers.start()
        assert (await near.get()).status_code == 200
        taken = {"app_id": "app_after", "org_id": "org_2", "network_id": "net_2"}
        far.lab.agent.say(stale.model_copy(update=taken))
        async with asyncio.timeout(parts.PATIENCE_S):
            while (got := await near.get()).status_code == 200:
                await asyncio.sleep(0.02)
        assert "[PR04]" in got.text
        seen = len(stranger.requests)
        for _ in range(5):
            assert (await near.get()).status_code >= 500
        assert len(stranger.requests) == seen
        assert (await far.lab.metrics())["godwit_edge_backhaul_bounced_count"] >= 1
