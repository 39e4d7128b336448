"""Leases over HTTP: who holds a machine alone may change it."""

from typing import Any

import httpx
import pytest

from tests.unit.api.conftest import Served

NONCE = "fly-machine-lease-nonce"


@pytest.fixture
async def one(served: Served) -> str:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    made = await served.acme.post("/v1/apps/shop/machines", json={"config": {"image": "nginx"}})
    path = f"/v1/apps/shop/machines/{made.json()['id']}"
    await served.acme.get(f"{path}/wait", params={"state": "started"})
    return path


async def lease(client: httpx.AsyncClient, one: str, **options: Any) -> dict[str, Any]:
    answer = await client.post(f"{one}/lease", **options)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "success"
    found: dict[str, Any] = answer.json()["data"]
    return found


def seconds_left(served: Served, held: dict[str, Any]) -> float:
    return float(held["expires_at"] - served.world.clock.now_ms() / 1000)


async def test_a_lease_is_taken_shown_prolonged_and_given_back(served: Served, one: str) -> None:
    acme = served.acme
    none = await acme.get(f"{one}/lease")
    assert none.status_code == 404
    assert " lease not found" in none.json()["error"]
    held = await lease(acme, one, json={"description": "deploy", "ttl": 30})
    assert 28 <= seconds_left(served, held) <= 31
    shown = (await acme.get(f"{one}/lease")).json()
    assert shown["status"] == "success"
    assert shown["data"] == held
    reader = served.client(await served.world.token("acme", scopes=("machines:read",)))
    seen = (await reader.get(f"{one}/lease")).json()
    assert seen["data"] == {key: held[key] for key in held if key != "nonce"}
    longer = await lease(acme, one, params={"ttl": 200}, headers={NONCE: held["nonce"]})
    assert longer["nonce"] == held["nonce"]
    assert seconds_left(served, longer) > 190
    given_back = await acme.delete(f"{one}/lease", headers={NONCE: held["nonce"]})
    assert given_back.json() == {"status": "success", "data": {"ok": True}}
    assert (await acme.get(f"{one}/lease")).status_code == 404


@pytest.mark.parametrize("options", [{}, {"json": {}}, {"json": {"ttl": 0}}, {"content": b""}])
async def test_it_lasts_120_seconds_unless_told(
    served: Served, one: str, options: dict[str, Any]
) -> None:
    held = await lease(served.acme, one, **options)
    assert 118 <= seconds_left(served, held) <= 121


async def test_what_somebody_else_holds_is_refused_and_says_who_has_it(
    served: Served, one: str
) -> None:
    held = await lease(served.acme, one, json={"description": "deploy"})
    refused = await served.acme.post(f"{one}/lease", params={"ttl": 60})
    assert refused.status_code == 409
    body = refused.json()
    assert held["nonce"] not in refused.text
    assert body["data"] == {key: held[key] for key in held if key != "nonce"}
    assert "lease currently held by token:tok_" in body["error"]
    wrong = await served.acme.post(f"{one}/lease", headers={NONCE: "wrong"})
    assert wrong.status_code == 409


GUARDED: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "", {"json": {"config": {"image": "nginx:2"}}}),
    ("POST", "/restart", {}),
    ("POST", "/cordon", {}),
    ("POST", "/uncordon", {}),
    ("POST", "/exec", {"json": {"command": ["true"]}}),
    ("PUT", "/memory", {"json": {"limit_mb": 128}}),
    ("POST", "/memory/reclaim", {"json": {"amount_mb": 8}}),
    ("POST", "/suspend", {}),
    ("POST", "/start", {}),
    ("POST", "/stop", {}),
    ("DELETE", "", {"params": {"force": "true"}}),
]


async def test_changes_need_the_nonce_while_a_lease_is_held(served: Served, one: str) -> None:
    held = await lease(served.acme, one)
    for method, verb, options in GUARDED:
        for headers in ({}, {NONCE: "wrong"}):
            refused = await served.acme.request(method, one + verb, headers=headers, **options)
            assert refused.status_code == 409, (method, verb)
    for method, verb, options in GUARDED:
        headers = {NONCE: held["nonce"]}
        done = await served.acme.request(method, one + verb, headers=headers, **options)
        assert done.is_success, (method, verb, done.text)


async def test_reads_waits_metadata_and_new_machines_need_none(served: Served, one: str) -> None:
    await lease(served.acme, one)
    for verb in ("", "/events", "/versions", "/metadata", "/ps", "/memory", "/wait"):
        assert (await served.acme.get(one + verb)).status_code == 200, verb
    patch = await served.acme.patch(f"{one}/metadata", json={"metadata": {"a": "b"}})
    assert patch.status_code == 204
    made = await served.acme.post("/v1/apps/shop/machines", json={"config": {"image": "nginx"}})
    assert made.status_code == 200


async def test_public_clients_end_a_lease_with_the_nonce_they_find(
    served: Served, one: str
) -> None:
    await lease(served.acme, one)
    found = (await served.acme.get(f"{one}/lease")).json()["data"]
    ended = await served.acme.delete(f"{one}/lease", headers={NONCE: found["nonce"]})
    assert ended.status_code == 200
    assert (await served.acme.post(f"{one}/cordon")).status_code == 200


async def test_an_expired_lease_is_none(served: Served, one: str) -> None:
    await lease(served.acme, one, json={"ttl": 30})
    machine = next(iter(served.world.host.machines.values()))
    assert machine.lease is not None
    machine.lease = machine.lease.model_copy(update={"expires_at": 1})
    assert (await served.acme.post(f"{one}/cordon")).status_code == 200
    assert (await served.acme.get(f"{one}/lease")).status_code == 404


async def test_a_machine_may_begin_under_a_lease(served: Served) -> None:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    body = {"config": {"image": "nginx"}, "lease_ttl": 60}
    made = (await served.acme.post("/v1/apps/shop/machines", json=body)).json()
    one = f"/v1/apps/shop/machines/{made['id']}"
    assert "lease" not in made
    assert (await served.acme.post(f"{one}/stop")).status_code == 409
    headers = {NONCE: made["nonce"]}
    assert (await served.acme.post(f"{one}/stop", headers=headers)).status_code == 200
    updated = await served.acme.post(one, json=body, headers=headers)
    assert updated.json()["nonce"]
    assert "nonce" not in (await served.acme.get(one)).json()


async def test_leases_are_shown_only_when_asked_for(served: Served, one: str) -> None:
    held = await lease(served.acme, one, json={"description": "deploy"})
    shown = {key: held[key] for key in ("description", "expires_at", "owner")}
    assert "lease" not in (await served.acme.get(one)).json()
    asked = {"include_leases": "true"}
    assert (await served.acme.get(one, params=asked)).json()["lease"] == shown
    listed = await served.acme.get("/v1/apps/shop/machines", params=asked)
    assert [machine["lease"] for machine in listed.json()] == [shown]
    everything = (await served.acme.get("/x/v1/audit", params={"org_slug": "acme"})).text
    assert held["nonce"] not in listed.text + everything


async def test_giving_back_needs_the_nonce(served: Served, one: str) -> None:
    await lease(served.acme, one)
    without = await served.acme.delete(f"{one}/lease")
    assert without.status_code == 400
    assert "fly-machine-lease-nonce" in without.json()["error"]
    wrong = await served.acme.delete(f"{one}/lease", headers={NONCE: "wrong"})
    assert wrong.status_code == 409


async def test_a_lease_left_behind_can_be_broken_by_who_may_write(
    served: Served, one: str
) -> None:
    await lease(served.acme, one)
    assert (await served.rival.delete(f"/x{one}/lease")).status_code == 403
    assert (await served.acme.delete(f"/x{one}/lease")).status_code == 204
    assert (await served.acme.post(f"{one}/cordon")).status_code == 200
    assert (await served.acme.delete(f"/x{one}/lease")).status_code == 404


async def test_prolonging_fills_no_audit_log(served: Served, one: str) -> None:
    held = await lease(served.acme, one)
    before = (await served.acme.get("/x/v1/audit", params={"org_slug": "acme"})).json()
    for _ in range(5):
        await lease(served.acme, one, headers={NONCE: held["nonce"]})
    after = (await served.acme.get("/x/v1/audit", params={"org_slug": "acme"})).json()
    assert after == before
    await served.acme.delete(f"{one}/lease", headers={NONCE: held["nonce"]})
    await lease(served.acme, one, headers={NONCE: held["nonce"]})
    newest = (await served.acme.get("/x/v1/audit", params={"org_slug": "acme"})).json()["rows"][0]
    assert newest["action"] == "machines.lease.acquire"


@pytest.mark.parametrize("ttl", ["-1", "x", "86401", "1.5"])
async def test_a_time_that_makes_no_sense_is_refused(served: Served, one: str, ttl: str) -> None:
    refused = await served.acme.post(f"{one}/lease", params={"ttl": ttl})
    assert refused.status_code == 400
    assert "ttl" in refused.json()["error"]
