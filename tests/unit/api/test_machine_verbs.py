"""What may be asked of one machine: suspend, signals, processes, memory, versions, bodies."""

from typing import Any

import httpx
import pytest

from tests.unit.api.conftest import Served


@pytest.fixture
async def acme(served: Served) -> httpx.AsyncClient:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    return served.acme


@pytest.fixture
async def one(acme: httpx.AsyncClient) -> str:
    guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256, "max_memory_mb": 512}
    body = {"config": {"image": "nginx:1", "guest": guest}}
    made = await acme.post("/v1/apps/shop/machines", json=body)
    assert made.status_code == 200, made.text
    return f"/v1/apps/shop/machines/{made.json()['id']}"


async def test_suspend_and_go_on(served: Served, acme: httpx.AsyncClient, one: str) -> None:
    assert (await acme.post(f"{one}/suspend")).json() == {"ok": True}
    assert (await acme.get(f"{one}/wait", params={"state": "suspended"})).json()["ok"]
    again = await acme.post(f"{one}/suspend")
    assert again.status_code == 412
    assert again.json()["error"].startswith("failed_precondition: ")
    started = (await acme.post(f"{one}/start")).json()
    assert started == {"previous_state": "suspended", "migrated": False, "new_host": ""}


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ("SIGHUP", "SIGHUP"),
        ("hup", "SIGHUP"),
        (9, "SIGKILL"),
        ("SIGABRT", "SIGABRT"),
        (15, "SIGTERM"),
    ],
)
async def test_signals_in_both_spellings(
    served: Served, acme: httpx.AsyncClient, one: str, sent: str | int, heard: str
) -> None:
    assert (await acme.post(f"{one}/signal", json={"signal": sent})).json() == {"ok": True}
    machine = next(iter(served.world.host.machines.values()))
    assert machine.signals == [heard]


@pytest.mark.parametrize("sent", ["SIGSTOP", "SIGWHAT", 19, 64, -1, 0, "", None, 1.5, True])
async def test_other_signals_are_refused(acme: httpx.AsyncClient, one: str, sent: object) -> None:
    refused = await acme.post(f"{one}/signal", json={"signal": sent})
    assert refused.status_code == 400
    assert "signal" in refused.json()["error"]


async def test_processes_are_sorted(acme: httpx.AsyncClient, one: str) -> None:
    found = (await acme.get(f"{one}/ps")).json()
    assert [process["pid"] for process in found] == [1, 7, 9]
    assert found[1]["listen_sockets"] == [{"proto": "tcp", "address": "[::]:80"}]
    assert set(found[0]) == {
        "pid", "command", "directory", "cpu", "rss", "rtime", "stime", "listen_sockets",
    }  # fmt: skip
    by_size = await acme.get(f"{one}/ps", params={"sort_by": "rss", "order": "desc"})
    assert [process["pid"] for process in by_size.json()] == [7, 9, 1]
    for wrong in ({"sort_by": "age"}, {"order": "up"}):
        assert (await acme.get(f"{one}/ps", params=wrong)).status_code == 400


async def test_memory_is_shown_changed_and_reclaimed(acme: httpx.AsyncClient, one: str) -> None:
    assert (await acme.get(f"{one}/memory")).json() == {"available_mb": 128, "limit_mb": 256}
    grown = await acme.put(f"{one}/memory", json={"limit_mb": 512})
    assert grown.json() == {"available_mb": 256, "limit_mb": 512}
    too_much = await acme.put(f"{one}/memory", json={"limit_mb": 513})
    assert too_much.status_code == 400
    assert "max_memory_mb" in too_much.json()["error"]
    came = await acme.post(f"{one}/memory/reclaim", json={"amount_mb": 10_000})
    assert came.json() == {"actual_mb": 256}
    for wrong in ({}, {"limit_mb": 0}, {"limit_mb": -1}, {"limit_mb": "1"}):
        assert (await acme.put(f"{one}/memory", json=wrong)).status_code == 400


@pytest.mark.parametrize("verb", ["ps", "memory"])
async def test_a_machine_at_rest_has_no_inside(
    acme: httpx.AsyncClient, one: str, verb: str
) -> None:
    await acme.post(f"{one}/stop")
    assert (await acme.get(f"{one}/{verb}")).status_code == 412


async def test_versions_are_listed_newest_first(acme: httpx.AsyncClient, one: str) -> None:
    before = (await acme.get(one)).json()
    await acme.post(one, json={"config": {"image": "nginx:2"}})
    found = (await acme.get(f"{one}/versions")).json()
    assert [version["user_config"]["image"] for version in found] == ["nginx:2", "nginx:1"]
    assert found[1]["version"] == before["version"]
    unknown = await acme.get(one, params={"version": "01" + "0" * 24})
    assert unknown.status_code == 404


async def test_a_stale_current_version_is_refused(acme: httpx.AsyncClient, one: str) -> None:
    seen = (await acme.get(one)).json()["version"]
    body: dict[str, Any] = {"config": {"image": "nginx:2"}, "current_version": seen}
    assert (await acme.post(one, json=body)).status_code == 200
    assert (await acme.post(one, json=body)).status_code == 409


async def test_secrets_that_are_not_there_are_not_waited_for(
    acme: httpx.AsyncClient, one: str
) -> None:
    for path in ("/v1/apps/shop/machines", one):
        body: dict[str, Any] = {"config": {"image": "x"}, "min_secrets_version": 3}
        refused = await acme.post(path, json=body)
        assert refused.status_code == 412
        assert "version 3 is not there" in refused.json()["error"]
        assert (await acme.post(path, json={**body, "min_secrets_version": 0})).status_code == 200
    refused = await acme.post(f"{one}/start", json={"min_secrets_version": 3})
    assert (refused.status_code, refused.json()["error"].partition(":")[0]) == (
        412,
        "failed_precondition",
    )
    assert "version 3 is not there" in refused.json()["error"]
    for body in ({}, {"min_secrets_version": 0}, {"min_secrets_version": None}):
        assert (await acme.post(f"{one}/start", json=body)).status_code == 200


async def test_events_are_limited(acme: httpx.AsyncClient, one: str) -> None:
    for _ in range(20):
        await acme.post(f"{one}/restart")
    assert len((await acme.get(f"{one}/events")).json()) == 20
    assert len((await acme.get(f"{one}/events", params={"limit": 3})).json()) == 3
    assert len((await acme.get(f"{one}/events", params={"limit": 1000})).json()) == 50
    newest, older = (await acme.get(f"{one}/events", params={"limit": 2})).json()
    assert (newest["type"], older["type"]) == ("start", "launch")
    assert len((await acme.get(one)).json()["events"]) == 5


async def test_a_destroyed_machine_can_be_read_with_its_exit(
    served: Served, acme: httpx.AsyncClient, one: str
) -> None:
    machine_id = one.rpartition("/")[2]
    await served.world.host.exit(machine_id, 7)
    await acme.delete(one)
    shown = (await acme.get(one)).json()
    assert shown["state"] == "destroyed"
    ended = next(event for event in shown["events"] if event["type"] == "exit")
    assert ended["request"]["exit_event"]["exit_code"] == 7
    assert ended["request"]["MonitorEvent"]["exit_event"]["exit_code"] == 7
    assert any(event["type"] == "start" for event in shown["events"])
    served.world.host.away = True
    assert (await acme.get(one)).json()["state"] == "destroyed"
    for verb in ("start", "stop", "suspend", "cordon", "lease"):
        assert (await acme.post(f"{one}/{verb}")).status_code == 404, verb
    assert (await acme.delete(one)).status_code == 200


async def test_commands_know_of_containers_that_are_not_there(
    acme: httpx.AsyncClient, one: str
) -> None:
    asked = {"command": ["true"]}
    both = await acme.post(f"{one}/exec", json={**asked, "container": "a", "machine": True})
    assert both.status_code == 400
    assert "not both" in both.json()["error"]
    named = await acme.post(f"{one}/exec", json={**asked, "container": "a"})
    assert named.status_code == 400
    assert "no container 'a'; it has one main process" in named.json()["error"]
    beside = await acme.post(f"{one}/exec", json={**asked, "machine": True, "container": ""})
    assert beside.status_code == 200
    slow = await acme.post(f"{one}/exec", json={"command": ["sleep", "9"], "timeout": 1})
    assert slow.status_code == 408


async def test_machines_of_a_deleted_app_are_400_and_its_name_is_free(
    served: Served, acme: httpx.AsyncClient, one: str
) -> None:
    await acme.delete("/v1/apps/shop", params={"force": "true"})
    for method, path in (
        ("GET", one),
        ("POST", f"{one}/start"),
        ("GET", "/v1/apps/shop/machines"),
    ):
        gone = await acme.request(method, path)
        assert gone.status_code == 400
        assert "could not find app" in gone.json()["error"]
        assert (await served.rival.request(method, path)).status_code == 404
    assert (await acme.get("/v1/apps/shop")).status_code == 404
    assert (await acme.get("/v1/apps/never/machines")).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        [("state", "stopped"), ("state", "started")],
        [("state", "stopped,started")],
        [("state", "settled")],
        [],
    ],
)
async def test_waits_take_several_states(
    acme: httpx.AsyncClient, one: str, query: list[tuple[str, str]]
) -> None:
    answer = await acme.get(f"{one}/wait", params=[*query, ("timeout", "500")])
    assert answer.json()["state"] == "started"
    assert set(answer.json()) == {"ok", "event_id", "state", "version"}


async def test_a_wait_past_its_time_says_so_in_the_words_clients_look_for(
    acme: httpx.AsyncClient, one: str
) -> None:
    late = await acme.get(f"{one}/wait", params={"state": "stopped", "timeout": 1})
    assert late.status_code == 408
    assert late.json()["error"] == (
        "deadline_exceeded: machine failed to reach desired state, stopped, currently started"
    )


async def test_placements_tell_where_machines_would_go(acme: httpx.AsyncClient) -> None:
    async def ask(**body: Any) -> httpx.Response:
        return await acme.post("/v1/platform/placements", json={"org_slug": "acme", **body})

    everything = (await ask()).json()["regions"]
    assert everything == [{"region": "lcl", "count": 4, "concurrency": 1}]
    guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
    some = await ask(count=3, region="any", compute=guest, volume_name="")
    assert some.json()["regions"] == [{"region": "lcl", "count": 3, "concurrency": 1}]
    full = await ask(count=999)
    assert (full.status_code, full.json()["status"]) == (503, "insufficient_capacity")
    assert (await ask(region="fra")).status_code == 400
    assert (await ask(volume_name="data")).status_code == 400
    assert (await ask(org_slug="rival")).status_code in (403, 404)
    assert (await acme.post("/v1/platform/placements", json={})).status_code == 400
