"""Machines over HTTP, against a simulated host."""

import httpx
import pytest

from tests.unit.api.conftest import Served

CONFIG = {
    "image": "nginx:1.27",
    "env": {"A": "", "B": "ü\n"},
    "services": [
        {
            "protocol": "tcp",
            "internal_port": 80,
            "autostop": "stop",
            "ports": [{"port": 80, "handlers": ["http"]}],
            "force_instance_key": None,
        }
    ],
    "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
    "x_unknown": [1.5, None, {"deep": []}],
}


@pytest.fixture
async def acme(served: Served) -> httpx.AsyncClient:
    assert (
        await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    ).status_code == 201
    return served.acme


async def make(client: httpx.AsyncClient, **more: object) -> dict:
    answer = await client.post("/v1/apps/shop/machines", json={"config": CONFIG, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_whole_life_of_a_machine(served: Served, acme: httpx.AsyncClient) -> None:
    machine = await make(acme, name="web-1")
    one = f"/v1/apps/shop/machines/{machine['id']}"
    assert machine["config"] == CONFIG
    assert machine["version"] == machine["instance_id"]
    waited = await acme.get(f"{one}/wait", params={"state": "started", "timeout": 5})
    assert waited.json()["ok"] is True
    assert (await acme.get(one)).json()["state"] == "started"
    assert (await acme.delete(one)).status_code == 412
    assert (
        await acme.post(f"{one}/stop", json={"signal": "SIGTERM", "timeout": "3s"})
    ).json() == {"ok": True}
    assert served.world.host.asked[-1][1]["timeout_ms"] == 3000
    assert (await acme.post(f"{one}/start")).json()["previous_state"] == "stopped"
    assert (
        await acme.post(f"{one}/restart", params={"timeout": "1m", "signal": "SIGINT"})
    ).status_code == 200
    assert (await acme.post(f"{one}/signal", json={"signal": 9})).status_code == 200
    assert (await acme.post(f"{one}/cordon")).status_code == 200
    assert (await acme.get(one)).json()["cordoned"] is True
    assert (await acme.post(f"{one}/uncordon")).status_code == 200
    ran = await acme.post(f"{one}/exec", json={"cmd": "echo 'a b' c"})
    assert ran.json()["stdout"] == "a b c"
    assert (await acme.delete(one, params={"kill": "true"})).json() == {"ok": True}
    assert (await acme.get(one)).json()["state"] == "destroyed"
    assert (await acme.get("/v1/apps/shop/machines")).json() == []
    deleted = await acme.get("/v1/apps/shop/machines", params={"include_deleted": "true"})
    assert [found["state"] for found in deleted.json()] == ["destroyed"]


async def test_an_organization_has_so_many_machines_and_no_more(
    served: Served, acme: httpx.AsyncClient
) -> None:
    served.app.state.ctx = served.world.options(org_machines=2).ctx
    first = await make(acme)
    await make(acme)
    answer = await acme.post("/v1/apps/shop/machines", json={"config": CONFIG})
    assert answer.status_code == 422
    assert "'acme' has 2 machines, and may have no more" in answer.json()["error"]
    gone = await acme.delete(f"/v1/apps/shop/machines/{first['id']}", params={"force": "true"})
    assert gone.status_code == 200
    await acme.get(
        f"/v1/apps/shop/machines/{first['id']}/wait", params={"state": "destroyed", "timeout": 5}
    )
    await acme.get(f"/v1/apps/shop/machines/{first['id']}")
    await make(acme)
