"""Metadata over HTTP: written without making a version, without a restart."""

import httpx
import pytest

from tests.unit.api.conftest import Served


@pytest.fixture
async def one(served: Served) -> str:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    config = {"image": "nginx", "metadata": {"color": "blue", "size": "big"}}
    made = await served.acme.post("/v1/apps/shop/machines", json={"config": config})
    return f"/v1/apps/shop/machines/{made.json()['id']}"


async def metadata(acme: httpx.AsyncClient, one: str) -> dict[str, str]:
    found: dict[str, str] = (await acme.get(f"{one}/metadata")).json()
    return found


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_keys_are_set_and_removed_and_others_stay(
    served: Served, one: str, method: str
) -> None:
    acme = served.acme
    before = (await acme.get(one)).json()
    body = {"metadata": {"role": "leader", "color": None}}
    answer = await acme.request(method, f"{one}/metadata", json=body)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await metadata(acme, one) == {"size": "big", "role": "leader"}
    await acme.request(method, f"{one}/metadata", json={"metadata": {"size": ""}})
    assert await metadata(acme, one) == {"role": "leader"}
    after = (await acme.get(one)).json()
    assert after["config"]["metadata"] == {"role": "leader"}
    assert after["version"] == before["version"]
    assert [event["type"] for event in after["events"]] == [e["type"] for e in before["events"]]


async def test_single_keys(served: Served, one: str) -> None:
    acme = served.acme
    assert (await acme.get(f"{one}/metadata/color")).json() == {"value": "blue"}
    assert (await acme.get(f"{one}/metadata/nope")).status_code == 404
    assert (await acme.post(f"{one}/metadata/color", json={"value": "red"})).status_code == 204
    assert (await acme.get(f"{one}/metadata/color")).json() == {"value": "red"}
    assert (await acme.delete(f"{one}/metadata/color")).status_code == 204
    assert (await acme.delete(f"{one}/metadata/color")).status_code == 204
    assert await metadata(acme, one) == {"size": "big"}


async def test_what_changed_meanwhile_is_not_written_over(served: Served, one: str) -> None:
    acme = served.acme
    seen = (await acme.get(one)).json()
    stale = {"metadata": {"a": "1"}, "machine_version": "01" + "0" * 24}
    refused = await acme.patch(f"{one}/metadata", json=stale)
    assert refused.status_code == 412
    assert refused.json()["error"].startswith("failed_precondition: ")
    old = {"value": "x", "updated_at": "2020-01-01T00:00:00.000Z"}
    assert (await acme.post(f"{one}/metadata/a", json=old)).status_code == 412
    good = {
        "metadata": {"a": "1"},
        "machine_version": seen["version"],
        "updated_at": (await acme.get(one)).json()["updated_at"],
    }
    assert (await acme.patch(f"{one}/metadata", json=good)).status_code == 204


async def test_control_shows_it_while_the_host_is_away(served: Served, one: str) -> None:
    await served.acme.patch(f"{one}/metadata", json={"metadata": {"color": "red"}})
    served.world.host.away = True
    assert (await metadata(served.acme, one))["color"] == "red"
    assert (await served.acme.patch(f"{one}/metadata", json={"metadata": {}})).status_code == 503


async def test_the_audit_row_names_keys_and_no_values(served: Served, one: str) -> None:
    await served.acme.patch(f"{one}/metadata", json={"metadata": {"password": "hunter2"}})
    audit = await served.acme.get("/x/v1/audit", params={"org_slug": "acme"})
    newest = audit.json()["rows"][0]
    assert newest["action"] == "machines.metadata.patch"
    assert newest["detail"]["keys"] == ["password"]
    assert "hunter2" not in audit.text


@pytest.mark.parametrize("body", [{"metadata": {"a": 1}}, {"metadata": []}, {"metadata": "x"}])
async def test_other_shapes_are_refused(served: Served, one: str, body: object) -> None:
    refused = await served.acme.patch(f"{one}/metadata", json=body)
    if body == {"metadata": []}:
        assert refused.status_code == 204
        return
    assert refused.status_code == 400
    assert "metadata" in refused.json()["error"]
