"""Lists of machines: filtered, page by page, of an app and of an organization."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.api import cursors
from godwit.base import errors
from godwit.testing.hosts import SimulatedHost
from tests.unit.api.conftest import Served

SHOP = "/v1/apps/shop/machines"
ORG = "/v1/orgs/acme/machines"
HALF_AN_HOUR_MS = 1_800_000


@pytest.fixture
async def acme(served: Served) -> httpx.AsyncClient:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    return served.acme


async def make(acme: httpx.AsyncClient, app: str = "shop", **config: Any) -> str:
    body = {"config": {"image": "nginx", **config}}
    answer = await acme.post(f"/v1/apps/{app}/machines", json=body)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


async def ids(acme: httpx.AsyncClient, path: str = SHOP, **query: Any) -> list[str]:
    answer = await acme.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return [one["id"] for one in (found if isinstance(found, list) else found["machines"])]


async def test_pages_hold_every_machine_once_oldest_first(acme: httpx.AsyncClient) -> None:
    made = [await make(acme) for _ in range(7)]
    assert sorted(await ids(acme)) == sorted(made)
    seen: list[str] = []
    cursor = ""
    for _ in range(4):
        page = await acme.get(SHOP, params={"limit": 2, "cursor": cursor})
        seen += [one["id"] for one in page.json()]
        cursor = page.headers.get("fly-next-cursor", "")
        if not cursor:
            break
    assert seen == await ids(acme)
    assert cursor == ""


async def test_a_machine_made_between_two_pages_is_not_missed(acme: httpx.AsyncClient) -> None:
    first = [await make(acme) for _ in range(3)]
    page = await acme.get(SHOP, params={"limit": 2})
    later = await make(acme)
    rest = await ids(acme, cursor=page.headers["fly-next-cursor"])
    assert {one["id"] for one in page.json()} | set(rest) == {*first, later}


async def test_a_cursor_ends_after_half_an_hour(served: Served, acme: httpx.AsyncClient) -> None:
    for _ in range(3):
        await make(acme)
    cursor = (await acme.get(SHOP, params={"limit": 1})).headers["fly-next-cursor"]
    served.world.clock.skew_ms = HALF_AN_HOUR_MS - 5_000
    assert len(await ids(acme, cursor=cursor)) == 2
    served.world.clock.skew_ms = HALF_AN_HOUR_MS + 5_000
    late = await acme.get(SHOP, params={"cursor": cursor})
    assert late.status_code == 400
    assert "expired" in late.json()["error"]


async def test_a_cursor_is_good_for_its_own_list_only(acme: httpx.AsyncClient) -> None:
    await acme.post("/v1/apps", json={"name": "other", "org_slug": "acme"})
    for _ in range(2):
        await make(acme)
    cursor = (await acme.get(SHOP, params={"limit": 1})).headers["fly-next-cursor"]
    for path in ("/v1/apps/other/machines", ORG):
        refused = await acme.get(path, params={"cursor": cursor})
        assert refused.status_code == 400
        assert "cursor" in refused.json()["error"]


@given(text=st.text(max_size=60))
def test_no_text_is_taken_for_a_cursor(text: str) -> None:
    with pytest.raises(errors.Failure) as caught:
        cursors.decode("apps:acme", 0, text)
    assert caught.value.code == "invalid_argument"


@given(at=st.integers(0, 2**52), name=st.text(st.characters(exclude_characters="\0"), max_size=60))
def test_a_cursor_comes_back_as_it_was_given(at: int, name: str) -> None:
    if not any("\ud800" <= one <= "\udfff" for one in name):
        assert cursors.decode("x", 5_000, cursors.encode("x", 5_000, (at, name))) == (at, name)


async def test_all_filters_hold_together(served: Served, acme: httpx.AsyncClient) -> None:
    blue = await make(acme, metadata={"color": "blue", "size": "big"})
    green = await make(acme, metadata={"color": "green", "size": "big"})
    await acme.post(f"{SHOP}/{green}/stop")
    assert await ids(acme, **{"metadata.size": "big"}) == [blue, green]
    assert await ids(acme, **{"metadata.size": "big", "metadata.color": "blue"}) == [blue]
    assert await ids(acme, state="stopped,suspended") == [green]
    assert await ids(acme, state="started", **{"metadata.color": "green"}) == []
    assert await ids(acme, region="fra") == []
    await acme.patch(f"{SHOP}/{blue}/metadata", json={"metadata": {"color": "red"}})
    assert await ids(acme, **{"metadata.color": "red"}) == [blue]


async def test_many_machines_on_one_host_are_asked_for_in_parts(
    served: Served, acme: httpx.AsyncClient
) -> None:
    guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
    served.world.host.memory_mb = 100_000
    made = [await make(acme, guest=guest) for _ in range(70)]
    answer, asked = served.world.host.answer, []

    async def small_bus(verb: str, body: dict[str, Any], who: Any = None) -> dict[str, Any]:
        asked.append(len(body["machine_ids"]))
        if len(body["machine_ids"]) > 20:
            raise errors.Failure("internal", "the answer is too large for the bus")
        return await answer(verb, body, who)

    served.world.host.answer = small_bus  # type: ignore[method-assign]
    assert await ids(acme) == made
    assert max(asked) <= 32
    assert sum(one for one in asked if one <= 20) == 70


async def test_a_host_that_is_away_is_shown_as_it_was(
    served: Served, acme: httpx.AsyncClient
) -> None:
    machine = await make(acme, env={"A": "1"})
    await acme.get(f"{SHOP}/{machine}")
    served.world.host.away = True
    (listed,) = (await acme.get(SHOP)).json()
    one = (await acme.get(f"{SHOP}/{machine}")).json()
    for shown in (listed, one):
        assert shown["host_status"] == "unreachable"
        assert shown["incomplete_config"] == {"image": "nginx", "env": {"A": "1"}}
        assert shown["state"] == "started"
    assert (await acme.get(f"{SHOP}/{machine}/versions")).json()[0]["user_config"]["env"]
    assert (await acme.get(f"{SHOP}/{machine}/events")).json()
    assert (await acme.post(f"{SHOP}/{machine}/stop")).status_code == 503
    served.world.host.away = False
    assert "incomplete_config" not in (await acme.get(f"{SHOP}/{machine}")).json()


async def test_an_organization_is_listed_across_its_apps(
    served: Served, acme: httpx.AsyncClient
) -> None:
    await acme.post("/v1/apps", json={"name": "other", "org_slug": "acme"})
    await served.rival.post("/v1/apps", json={"name": "theirs", "org_slug": "rival"})
    await make(served.rival, "theirs")
    mine = {await make(acme, metadata={"a": "b"}), await make(acme, "other")}
    found = (await acme.get(ORG)).json()
    assert {one["id"] for one in found["machines"]} == mine
    assert {one["app_name"] for one in found["machines"]} == {"shop", "other"}
    shop = next(one for one in found["machines"] if one["app_name"] == "shop")
    assert shop["config"] == {"image": "nginx", "metadata": {"a": "b"}}
    assert found["error_regions"] == []
    summary = (await acme.get(ORG, params={"summary": "true"})).json()["machines"]
    assert all("config" not in one for one in summary)
    assert await ids(acme, ORG, state="stopped") == []
    assert await ids(acme, ORG, region="fra") == []


async def test_an_organization_can_be_followed_by_its_changes(
    served: Served, acme: httpx.AsyncClient
) -> None:
    first = await make(acme)
    served.world.clock.skew_ms = 1_000
    second = await make(acme)
    found = (await acme.get(ORG)).json()
    assert [one["id"] for one in found["machines"]] == [first, second]
    assert found["last_machine_id"] == second
    last = {"updated_after": found["last_updated_at"]}
    assert await ids(acme, ORG, **last) == []
    served.world.clock.skew_ms = 2_000
    await acme.post(f"{SHOP}/{first}/stop")
    await acme.get(f"{SHOP}/{first}")
    assert await ids(acme, ORG, **last) == [first]
    assert await ids(acme, ORG) == [second, first]
    await acme.delete(f"{SHOP}/{first}")
    await acme.get(f"{SHOP}/{first}")
    assert await ids(acme, ORG) == [second]
    assert await ids(acme, ORG, include_deleted="true") == [second, first]


async def test_an_organizations_list_has_pages(acme: httpx.AsyncClient) -> None:
    made = {await make(acme) for _ in range(5)}
    seen: list[str] = []
    cursor = ""
    for _ in range(5):
        page = (await acme.get(ORG, params={"limit": 2, "cursor": cursor})).json()
        seen += [one["id"] for one in page["machines"]]
        cursor = page.get("next_cursor", "")
        if not cursor:
            break
    assert len(seen) == 5
    assert set(seen) == made


async def test_a_region_with_a_silent_host_is_named(
    served: Served, acme: httpx.AsyncClient
) -> None:
    await served.world.add_host(SimulatedHost("b0000000"), 2)
    await make(acme)
    liveness = served.world.ctx.liveness
    liveness.observe(("a1b2c3d4", "b0000000"), (), 0.0)
    assert (await acme.get(ORG)).json()["error_regions"] == ["lcl"]
    liveness.observe(("a1b2c3d4", "b0000000"), ("a1b2c3d4", "b0000000"), 1.0)
    assert (await acme.get(ORG)).json()["error_regions"] == []


@pytest.mark.parametrize("moment", ["yesterday", "2026-13-01T00:00:00Z", "12"])
async def test_a_time_that_is_none_is_refused(acme: httpx.AsyncClient, moment: str) -> None:
    refused = await acme.get(ORG, params={"updated_after": moment})
    assert refused.status_code == 400
    assert "updated_after" in refused.json()["error"]


async def test_an_app_says_which_name_a_domain_of_ones_own_points_at(
    acme: httpx.AsyncClient,
) -> None:
    (listed,) = (await acme.get("/v1/apps", params={"org_slug": "acme"})).json()["apps"]
    shown = (await acme.get("/v1/apps/shop")).json()
    assert shown["cname_target"] == listed["cname_target"] == "shop.godwit.localhost"
