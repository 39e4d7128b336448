"""What the public API's clients rely on: bodies, codes, headers."""

import base64
import re

import pytest

from godwit.base import errors
from godwit.control import registry_tokens
from godwit.wire import host_rpc
from tests.unit.api import table
from tests.unit.api.conftest import Served


async def test_unrouted_paths_are_plain_text_before_any_token(served: Served) -> None:
    for path in ("/", "/v1", "/v1/apps/", "/v2/apps", "/v1/apps/a/b/c", "/docs", "//"):
        answer = await served.nobody.get(path)
        assert (answer.status_code, answer.text) == (404, "404 page not found\n"), path
        assert answer.headers["content-type"].startswith("text/plain")
    assert (await served.nobody.put("/v1/apps")).status_code == 405


async def test_every_answer_has_a_request_id(served: Served) -> None:
    seen = set()
    for path in ("/nope", "/v1/apps", "/v1/platform/regions"):
        request_id = (await served.nobody.get(path)).headers["fly-request-id"]
        assert request_id.endswith("-lcl")
        seen.add(request_id)
    assert len(seen) == 3


async def test_every_answer_names_a_trace_the_callers_if_there_is_one(served: Served) -> None:
    theirs = "0af7651916cd43dd8448eb211c80319c"
    for given, known in (
        (f"00-{theirs}-b7ad6b7169203331-01", True),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        ("nonsense", False),
        (None, False),
    ):
        headers = {} if given is None else {"traceparent": given}
        answer = await served.nobody.get("/v1/platform/regions", headers=headers)
        assert (answer.headers["fly-trace-id"] == theirs) is known
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["fly-trace-id"])
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["fly-span-id"])


async def test_a_bug_is_answered_with_its_request_id(served: Served) -> None:
    class Broken:
        async def resolve(self, reference: str, token: str | None) -> host_rpc.ImageRef:
            raise ZeroDivisionError

    from dataclasses import replace

    await table.make_things(served)
    served.app.state.ctx = replace(served.world.ctx, images=Broken())
    answer = await served.acme.post("/v1/apps/shop/machines", json=table.MACHINE)
    assert answer.status_code == 500
    assert answer.headers["fly-request-id"] in answer.json()["error"]


async def test_an_app_is_created_with_everything_clients_read(served: Served) -> None:
    answer = await served.acme.post(
        "/v1/apps?wait=true", json={"app_name": "blog", "org_slug": "acme", "network": ""}
    )
    body = answer.json()
    assert answer.status_code == 201
    assert body["name"] == "blog"
    assert body["organization"]["slug"] == "acme"
    assert isinstance(body["created_at"], int)
    assert isinstance(body["internal_numeric_id"], int)
    taken = await served.rival.post("/v1/apps", json={"name": "blog", "org_slug": "rival"})
    assert (taken.status_code, taken.json()["status"]) == (422, "name_taken")


async def test_apps_are_paged_by_a_cursor(served: Served) -> None:
    for name in ("a", "b", "c"):
        await served.acme.post("/v1/apps", json={"name": name, "org_slug": "acme"})
    first = (await served.acme.get("/v1/apps?org_slug=acme&limit=2")).json()
    assert (first["total_apps"], len(first["apps"])) == (3, 2)
    rest = await served.acme.get(
        "/v1/apps", params={"org_slug": "acme", "limit": 2, "cursor": first["next_cursor"]}
    )
    assert [app["name"] for app in rest.json()["apps"]] == ["c"]
    assert "next_cursor" not in rest.json()
    assert (await served.acme.get("/v1/apps?org_slug=acme&cursor=%ff")).status_code == 400


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (errors.Failure("manifest_unknown", "no such tag"), 400, "MANIFEST_UNKNOWN"),
        (errors.Failure("unavailable", "away"), 503, "unavailable: away"),
        (errors.Failure("rate_limited", "slow down"), 429, "rate_limited"),
        (errors.Failure("invalid_argument", "wrong", hint="do so"), 400, "do so"),
    ],
)
async def test_failures_become_statuses(
    served: Served, failure: errors.Failure, status: int, text: str
) -> None:
    class Refusing:
        async def resolve(self, reference: str, token: str | None) -> host_rpc.ImageRef:
            raise failure

    from dataclasses import replace

    await table.make_things(served)
    served.app.state.ctx = replace(served.world.ctx, images=Refusing())
    answer = await served.acme.post("/v1/apps/shop/machines", json=table.MACHINE)
    assert answer.status_code == status
    assert text in answer.text


async def test_no_room_is_told_as_clients_expect_it(served: Served) -> None:
    await table.make_things(served)
    config = {"image": "x", "guest": {"cpu_kind": "performance", "cpus": 8}}
    answer = await served.acme.post("/v1/apps/shop/machines", json={"config": config})
    assert (answer.status_code, answer.json()["status"]) == (503, "insufficient_capacity")


async def test_waits_answer_408_404_and_400(served: Served) -> None:
    things = await table.make_things(served)
    wait = f"/v1/apps/shop/machines/{things.machine_id}/wait"
    late = await served.acme.get(wait, params={"state": "stopped", "timeout": 1})
    assert late.status_code == 408
    assert "deadline_exceeded: machine failed to reach desired state" in late.json()["error"]
    assert (await served.acme.get(wait, params={"state": "flying"})).status_code == 400
    several = await served.acme.get(f"{wait}?state=stopped,started&state=destroyed")
    assert several.json()["state"] == "started"
    assert (await served.acme.get(f"{wait}?state=settled")).json()["ok"] is True
    unknown = await served.acme.get("/v1/apps/shop/machines/00000000000000/wait")
    assert unknown.status_code == 404


async def test_restart_takes_seconds_or_a_duration(served: Served) -> None:
    things = await table.make_things(served)
    restart = f"/v1/apps/shop/machines/{things.machine_id}/restart"
    for given, ms in (("5", 5_000), ("1m30s", 90_000)):
        assert (await served.acme.post(restart, params={"timeout": given})).status_code == 200
        assert served.world.host.asked[-1][1]["timeout_ms"] == ms
    assert (await served.acme.post(restart, params={"force_stop": "true"})).status_code == 200
    assert served.world.host.asked[-1][1]["signal"] == "SIGKILL"


async def test_a_running_machine_tells_what_its_containers_do(served: Served) -> None:
    await table.make_things(served)
    containers = [{"name": "web", "image": "nginx"}, {"name": "cache", "image": "redis"}]
    body = {"config": {"containers": containers}}
    made = await served.acme.post("/v1/apps/shop/machines", json=body)
    assert made.status_code == 200, made.text
    one = f"/v1/apps/shop/machines/{made.json()['id']}"
    assert (await served.acme.get(f"{one}/wait")).status_code == 200
    assert (await served.acme.get(one)).json()["containers"] == [
        {"name": "web", "state": "started"},
        {"name": "cache", "state": "started"},
    ]
    assert (await served.acme.post(f"{one}/stop")).status_code == 200
    assert (await served.acme.get(f"{one}/wait", params={"state": "stopped"})).status_code == 200
    assert (await served.acme.get(one)).json().get("containers", []) == []


async def test_summaries_leave_out_what_is_large(served: Served) -> None:
    await table.make_things(served)
    for found in (await served.acme.get("/v1/apps/shop/machines?summary=true")).json():
        assert not {"config", "events", "checks", "host_status"} & set(found)
        assert found["state"] == "started"


async def test_machines_are_filtered_by_metadata_and_state(served: Served) -> None:
    await table.make_things(served)
    listed = "/v1/apps/shop/machines"
    for query, count in (
        ("metadata.color=blue", 1),
        ("metadata.color=red", 0),
        ("state=started,stopped", 1),
        ("state=stopped", 0),
        ("region=lcl", 1),
    ):
        assert len((await served.acme.get(f"{listed}?{query}")).json()) == count, query


async def test_an_unreachable_machine_shows_its_last_config_as_incomplete(served: Served) -> None:
    things = await table.make_things(served)
    served.world.host.away = True
    found = (await served.acme.get(f"/v1/apps/shop/machines/{things.machine_id}")).json()
    assert found["host_status"] == "unreachable"
    assert found["incomplete_config"]["image"] == "nginx"
    stop = await served.acme.post(f"/v1/apps/shop/machines/{things.machine_id}/stop")
    assert stop.status_code == 503


async def test_logs_come_in_their_public_form(served: Served) -> None:
    things = await table.make_things(served)
    served.world.host.lines = [
        host_rpc.LogEntry(
            t=1_790_000_000_000_000_007, org_id="", app="shop", machine_id=things.machine_id,
            region="lcl", stream="stderr", message="listening",
        )
    ]  # fmt: skip
    page = (await served.acme.get("/api/v1/apps/shop/logs")).json()
    attributes = page["data"][0]["attributes"]
    assert attributes["timestamp"].endswith(".000000007Z")
    assert (attributes["message"], attributes["instance"]) == ("listening", things.machine_id)
    assert attributes["meta"]["event"]["provider"] == "app"
    again = await served.acme.get(
        "/api/v1/apps/shop/logs", params={"next_token": page["meta"]["next_token"]}
    )
    assert again.json()["data"] == []


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"x:{password}".encode()).decode()}


async def test_the_registry_token_takes_any_user_and_an_api_token(served: Served) -> None:
    await table.make_things(served)
    secret = await served.world.token("acme")
    query = {"service": "godwit-registry", "scope": "repository:shop:pull,push", "account": "x"}
    answer = await served.nobody.get("/registry/token", params=query, headers=basic(secret))
    token = answer.json()["token"]
    assert token == answer.json()["access_token"]
    claims = registry_tokens.claims(token, served.world.ctx.signer.key.public_key())
    assert claims["access"][0]["actions"] == ["pull", "push"]
    for headers in ({}, basic("wrong"), basic(""), {"Authorization": "Basic !!!"}):
        refused = await served.nobody.get("/registry/token", params=query, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
    wrong = {**query, "service": "other"}
    answer = await served.nobody.get("/registry/token", params=wrong, headers=basic(secret))
    assert answer.status_code == 400


async def test_a_registry_client_is_told_in_words_that_there_is_no_room(served: Served) -> None:
    await table.make_things(served)
    secret = await served.world.token("acme")
    served.world.warehouse.sizes = {"shop": 60 * 1024**3}
    query = {"service": "godwit-registry", "scope": "repository:shop:pull,push"}
    answer = await served.nobody.get("/registry/token", params=query, headers=basic(secret))
    assert answer.status_code == 403
    assert "has 61440 MB in the registry and may have 51200 MB" in answer.json()["error"]
    query["scope"] = "repository:shop:pull"
    answer = await served.nobody.get("/registry/token", params=query, headers=basic(secret))
    assert answer.status_code == 200


async def test_regions_need_no_token(served: Served) -> None:
    body = (await served.nobody.get("/v1/platform/regions")).json()
    assert [region["code"] for region in body["regions"]] == ["lcl"]
    assert body["nearest"] == "lcl"


async def test_hosts_tell_whether_they_answer(served: Served) -> None:
    body = (await served.operator.get("/x/v1/hosts")).json()
    assert body["hosts"][0]["status"] == "ok"
    assert body["hosts"][0]["free_memory_mb"] == 8192
    served.world.host.away = True
    body = (await served.operator.get("/x/v1/hosts")).json()
    assert body["hosts"][0]["status"] == "unreachable"


async def test_a_secret_has_a_value_though_it_may_be_empty(served: Served) -> None:
    await table.make_things(served)
    path = "/v1/apps/shop/secrets/KEY"
    for body in ({}, {"value": None}, {"values": "of another name"}):
        refused = await served.acme.post(path, json=body)
        assert refused.status_code == 400, body
        assert "value: is required" in refused.json()["error"]
    before = (await served.acme.get(path)).json()
    for body in ({"value": ""}, {"value_base64": ""}):
        assert (await served.acme.post(path, json=body)).status_code == 201
        assert (await served.acme.get(path)).json()["digest"] != before.get("digest")
