"""The API over a real agent on a fake host: what both sides of the bus say to each other fits."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from godwit.api import app as api
from godwit.base import encoded, errors, tasks
from godwit.base.principal import Principal
from godwit.bus import answering
from godwit.control import machine_config
from godwit.control.context import Context
from godwit.control.network_policies import PolicyTeller
from godwit.testing.control import world
from godwit.wire import host_rpc
from godwit.wire import metadata as limits
from godwit.wire.record import Record
from tests.unit.agent.bench import FAST, Bench, running

NONCE = "fly-machine-lease-nonce"


class OneAgent:
    """Control's `Hosts` with one real agent behind it; all is bounded and encoded as on the bus."""

    def __init__(self, bench: Bench, owned: tasks.Tasks) -> None:
        self.bench = bench
        self.away = False
        self._answerer = answering.Answerer(owned)

    async def call(
        self,
        host_id: str,
        verb: str,
        body: Record | dict[str, Any],
        principal: Principal,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        plain = body.model_dump(mode="json") if isinstance(body, Record) else body
        if self.away or host_id != "a1b2c3d4":
            raise errors.Failure("unavailable", "nobody answers")
        if verb == "machine.reserve":
            self.bench.world.scripts[plain["machine_id"]].extend([FAST] * 9)
        request = host_rpc.Request(principal=principal, body=plain, timeout_s=timeout_s)
        data = request.model_dump_json().encode()
        assert len(data) <= answering.MAX_BODY_BYTES
        handler = self.bench.app.handlers().get(verb)
        answer = answering.encoded(await self._answerer.answer(handler, verb, data))
        reply = host_rpc.Reply.model_validate_json(answer)
        if reply.error is not None:
            raise errors.Failure(reply.error.code, reply.error.message, hint=reply.error.hint)
        return reply.body or {}

    async def bids(
        self, region: str, request: host_rpc.BidRequest, wait_s: float = 1.0, *, hosts: int = 8
    ) -> list[host_rpc.Bid]:
        del region, wait_s, hosts
        return [] if self.away else [await self.bench.app.bid(request)]


class Shop:
    """An app with one machine that runs, and its owner's client."""

    def __init__(self, hosts: OneAgent, client: httpx.AsyncClient, ctx: Context) -> None:
        self.hosts = hosts
        self.client = client
        self.ctx = ctx
        self.one = ""

    async def ask(self, method: str, path: str = "", expect: int = 200, **options: Any) -> Any:
        answer = await self.client.request(method, f"{self.one}{path}", **options)
        assert answer.status_code == expect, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def wait(self, state: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask("GET", "/wait", params={"state": state})
        return found


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    (tmp_path / "agent").mkdir()
    (tmp_path / "control").mkdir()
    async with (
        tasks.Tasks("answers") as owned,
        world(tmp_path / "control") as around,
        running(tmp_path / "agent") as bench,
    ):
        hosts = OneAgent(bench, owned)
        ctx = replace(around.ctx, hosts=hosts, options=replace(around.ctx.options, act_s=5.0))
        await around.organization("acme")
        headers = {"Authorization": f"Bearer {await around.token('acme')}"}
        transport = httpx.ASGITransport(app=api.create(ctx))
        client = httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers)
        await client.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
        made = Shop(hosts, client, ctx)
        config = {"image": "nginx:1", "metadata": {"color": "blue"}, "x": [1.0, None]}
        answer = await client.post("/v1/apps/shop/machines", json={"config": config})
        assert answer.status_code == 200, answer.text
        made.one = f"/v1/apps/shop/machines/{answer.json()['id']}"
        await made.wait("started")
        yield made
        await client.aclose()


async def test_a_machine_that_is_replaced_refuses_to_start(shop: Shop) -> None:
    await shop.ask("POST", json={"config": {"image": "nginx:2"}})
    refusal = await shop.ask("POST", "/start", expect=412)
    assert refusal["error"] == ("failed_precondition: machine getting replaced, refusing to start")
    await shop.wait("started")


async def test_a_machines_life(shop: Shop) -> None:
    shown = await shop.ask("GET")
    assert shown["config"] == {"image": "nginx:1", "metadata": {"color": "blue"}, "x": [1.0, None]}
    assert [event["type"] for event in shown["events"]][:2] == ["start", "launch"]
    await shop.ask("DELETE", expect=412)
    await shop.ask("POST", "/stop", json={"signal": "SIGTERM", "timeout": "2s"})
    await shop.wait("stopped")
    assert (await shop.ask("POST", "/start"))["previous_state"] == "stopped"
    await shop.wait("started")
    await shop.ask("POST", "/cordon")
    assert (await shop.ask("GET"))["cordoned"] is True
    await shop.ask("DELETE", params={"kill": "true"})
    assert (await shop.wait("destroyed"))["state"] == "destroyed"
    gone = await shop.ask("GET")
    assert gone["state"] == "destroyed"
    assert {"start", "exit"} <= {event["type"] for event in gone["events"]}
    ended = next(event for event in gone["events"] if event["type"] == "exit")
    assert ended["request"]["exit_event"]["requested_stop"] is True


async def test_suspend_and_go_on(shop: Shop) -> None:
    await shop.ask("POST", "/suspend")
    await shop.wait("suspended")
    assert (await shop.ask("POST", "/start"))["previous_state"] == "suspended"
    await shop.wait("started")
    assert "resume" in [event["type"] for event in await shop.ask("GET", "/events")]


async def test_three_waits_at_once_as_deploys_open_them(shop: Shop) -> None:
    states = ("stopped", "started", "suspended")
    asked = [
        shop.client.get(f"{shop.one}/wait", params={"state": state, "timeout": 1})
        for state in states
    ]
    answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [408, 200, 408]
    assert answers[0].json()["error"] == (
        "deadline_exceeded: machine failed to reach desired state, stopped, currently started"
    )


async def test_leases_hold(shop: Shop) -> None:
    await shop.ask("GET", "/lease", expect=404)
    held = (await shop.ask("POST", "/lease", expect=201, json={"ttl": 30, "description": "d"}))[
        "data"
    ]
    assert (await shop.ask("GET", "/lease"))["data"]["nonce"] == held["nonce"]
    refused = await shop.ask("POST", "/lease", expect=409)
    assert refused["data"]["description"] == "d"
    assert held["nonce"] not in json.dumps(refused)
    for verb in ("stop", "restart", "suspend", "cordon", "uncordon", "start"):
        await shop.ask("POST", f"/{verb}", expect=409)
    await shop.ask("DELETE", expect=409, params={"force": "true"})
    await shop.ask("POST", expect=409, json={"config": {"image": "nginx:2"}})
    await shop.ask("POST", "/exec", expect=409, json={"command": ["true"]})
    mine = {NONCE: held["nonce"]}
    again = await shop.ask("POST", "/lease", expect=201, params={"ttl": 90}, headers=mine)
    assert again["data"]["nonce"] == held["nonce"]
    await shop.ask("POST", "/stop", headers=mine)
    await shop.wait("stopped")
    seen = await shop.ask("GET", params={"include_leases": "true"})
    assert set(seen["lease"]) == {"description", "expires_at", "owner"}
    await shop.ask("DELETE", "/lease", headers=mine)
    await shop.ask("POST", "/lease", expect=201)
    break_it = await shop.client.delete(f"/x{shop.one}/lease")
    assert break_it.status_code == 204
    await shop.ask("POST", "/start")


async def test_a_machine_begins_and_goes_on_under_a_lease(shop: Shop) -> None:
    body = {"config": {"image": "nginx:2"}, "lease_ttl": 60, "skip_launch": True}
    first = (await shop.client.post("/v1/apps/shop/machines", json=body)).json()
    shop.one = f"/v1/apps/shop/machines/{first['id']}"
    await shop.wait("stopped")
    mine = {NONCE: first["nonce"]}
    await shop.ask("POST", expect=409, json={"config": {"image": "nginx:3"}})
    updated = await shop.ask("POST", json=body, headers=mine)
    assert updated["nonce"] == first["nonce"]
    assert updated["version"] != first["version"]


async def test_metadata_and_versions(shop: Shop) -> None:
    before = await shop.ask("GET")
    patch = {"metadata": {"size": "big", "color": ""}, "machine_version": before["version"]}
    await shop.ask("PATCH", "/metadata", expect=204, json=patch)
    assert await shop.ask("GET", "/metadata") == {"size": "big"}
    stale = {"metadata": {"a": "b"}, "machine_version": "0" * 26}
    await shop.ask("PUT", "/metadata", expect=412, json=stale)
    await shop.ask("DELETE", "/metadata/size", expect=204)
    after = await shop.ask("GET")
    assert after["config"].get("metadata") in (None, {})
    assert after["version"] == before["version"]
    await shop.ask("POST", json={"config": {"image": "nginx:2"}})
    await shop.wait("started")
    stale_update = {"config": {"image": "nginx:3"}, "current_version": before["version"]}
    await shop.ask("POST", expect=409, json=stale_update)
    old = await shop.ask("GET", params={"version": before["version"]})
    assert old["state"] == "replaced"
    versions = await shop.ask("GET", "/versions")
    assert [one["user_config"]["image"] for one in versions] == ["nginx:2", "nginx:1"]


async def test_memory_and_processes(shop: Shop) -> None:
    memory = await shop.ask("GET", "/memory")
    assert memory["limit_mb"] >= memory["available_mb"] > 0
    assert (await shop.ask("POST", "/memory/reclaim", json={"amount_mb": 8}))["actual_mb"] >= 0
    await shop.ask("PUT", "/memory", expect=400, json={"limit_mb": 100_000})
    assert isinstance(await shop.ask("GET", "/ps"), list)
    await shop.ask("POST", "/stop")
    await shop.wait("stopped")
    await shop.ask("GET", "/ps", expect=412)


async def test_a_host_that_is_away(shop: Shop) -> None:
    await shop.ask("GET")
    shop.hosts.away = True
    shown = await shop.ask("GET")
    assert (shown["host_status"], shown["state"]) == ("unreachable", "started")
    assert shown["incomplete_config"] == shown["config"]
    assert (await shop.ask("GET", "/metadata")) == {"color": "blue"}
    assert (await shop.ask("GET", "/versions"))[0]["user_config"] == shown["config"]
    for verb in ("stop", "suspend", "lease"):
        await shop.ask("POST", f"/{verb}", expect=503)
    listed = (await shop.client.get("/v1/orgs/acme/machines")).json()["machines"]
    assert [one["state"] for one in listed] == ["started"]


def largest(**more: Any) -> dict[str, Any]:
    """Return a config that is as large as one may be."""
    checks = {"c" * 98 + f"{at:02}": {"type": "tcp", "port": 1} for at in range(64)}
    metadata = {"k": "é" * (limits.MOST_BYTES // 2 - 10)}
    config: dict[str, Any] = {"image": "nginx:1", "metadata": metadata, "checks": checks, **more}
    room = machine_config.MOST_BYTES - encoded.size({**config, "unknown": ""})
    return {**config, "unknown": "A" * room}


async def test_the_largest_config_is_taken_told_updated_listed_and_remembered(shop: Shop) -> None:
    for at in range(4):
        config = largest(env={"AT": str(at)})
        shown = await shop.ask("POST", json={"config": config})
        assert shown["config"] == config
        await shop.wait("started")
    assert (await shop.ask("GET"))["config"] == config
    (listed,) = (await shop.client.get("/v1/apps/shop/machines")).json()
    assert listed["config"] == config
    told = await shop.ask("GET", "/versions")
    envs = [one["user_config"].get("env") for one in told]
    assert envs == [*({"AT": str(at)} for at in (3, 2, 1, 0)), None]
    await shop.ask("PATCH", "/metadata", 204, json={"metadata": {"k": "x" * 28_000}})
    assert len((await shop.ask("GET"))["config"]["metadata"]["k"]) == 28_000


def policy(*ports: int, **more: Any) -> dict[str, Any]:
    """Return the body that opens these ports alone to what an app's machines send."""
    told = [{"protocol": "tcp", "port": port} for port in ports]
    rule = {"action": "allow", "direction": "egress", "ports": told}
    return {"name": "some", "selector": {"all": True}, "rules": [rule], **more}


async def test_network_policies_reach_machines_that_run_and_those_to_come(shop: Shop) -> None:
    client, path, world = shop.client, "/v1/apps/shop/network_policies", shop.hosts.bench.world

    async def egress() -> set[frozenset[tuple[str, int]] | None]:
        await PolicyTeller(shop.ctx).tell()
        return {judged.egress for judged in world.judged.values()}

    assert await egress() == {None}
    made = (await client.post(path, json=policy(443))).json()
    assert await egress() == {frozenset({("tcp", 443)})}
    assert (await client.get(path)).json() == [made]
    changed = await client.post(path, json=policy(id=made["id"]))
    assert changed.json() == {**made, "rules": [{**made["rules"][0], "ports": []}]}
    assert await egress() == {frozenset()}
    answer = await client.post("/v1/apps/shop/machines", json={"config": {"image": "nginx:1"}})
    other = answer.json()["id"]
    await client.get(f"/v1/apps/shop/machines/{other}/wait", params={"state": "started"})
    assert len(world.taps) == 2
    assert {judged.egress for judged in world.judged.values()} == {frozenset()}
    assert (await client.delete(f"{path}/{made['id']}")).status_code == 204
    assert await egress() == {None}


async def test_the_largest_config_is_told_with_the_most_network_policies(shop: Shop) -> None:
    path, made = "/v1/apps/shop/network_policies", 0
    while (await shop.client.post(path, json=policy(*range(9_000, 9_030)))).status_code == 200:
        made += 1
    assert made > 10
    config = largest()
    shown = await shop.ask("POST", json={"config": config})
    assert shown["config"] == config
    await shop.wait("started")


async def test_what_is_larger_is_refused_before_the_host_hears_of_it(shop: Shop) -> None:
    before = await shop.ask("GET")
    for config in (
        largest(env={"A": "\1" * 30_000}),
        {"image": "nginx:1", "metadata": {"k": "x" * 28_672}},
        {"image": "nginx:1", "services": [{"protocol": "tcp", "internal_port": 80,
                                           "ports": [{"port": 80}] * 7_000}]},
    ):  # fmt: skip
        refused = await shop.ask("POST", expect=400, json={"config": config})
        assert "config" in refused["error"]
        made = await shop.client.post("/v1/apps/shop/machines", json={"config": config})
        assert made.status_code == 400
    await shop.ask("PATCH", "/metadata", 400, json={"metadata": {"k": "x" * 28_672}})
    assert await shop.ask("GET") == before


async def test_what_is_asked_of_a_destroyed_machine_has_one_answer_each(shop: Shop) -> None:
    await shop.ask("DELETE", params={"force": "true"})
    await shop.wait("destroyed")
    for path in ("", "/events", "/versions"):
        assert await shop.ask("GET", path)
    assert (await shop.ask("GET", "/wait", params={"state": "settled"}))["state"] == "destroyed"
    await shop.ask("DELETE")
    for method, path, body in (
        ("GET", "/lease", None),
        ("GET", "/wait?state=started", None),
        ("GET", "/ps", None),
        ("POST", "/start", None),
        ("POST", "/stop", None),
        ("POST", "/suspend", None),
        ("POST", "/restart", None),
        ("POST", "/cordon", None),
        ("POST", "/lease", None),
        ("POST", "/signal", {"signal": 9}),
        ("POST", "/exec", {"command": ["true"]}),
        ("POST", "", {"config": {"image": "nginx:1"}}),
        ("PATCH", "/metadata", {"metadata": {"a": "b"}}),
    ):
        said = await shop.ask(method, path, expect=404, json=body)
        assert said["error"].startswith("not_found: "), path
