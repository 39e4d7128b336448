"""Rate limits: how often what may be asked, and whose buckets are emptied by it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.api import app as api
from godwit.api import limits
from godwit.testing.control import World, world
from godwit.testing.fake_api import JumpingClock

STORM = 12


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[tuple[World, httpx.ASGITransport]]:
    async with world(tmp_path) as around:
        for slug in ("acme", "rival"):
            await around.organization(slug)
        limited = around.options(rate_limits=True)
        yield limited, httpx.ASGITransport(app=api.create(limited.ctx))


async def client(limited: tuple[World, httpx.ASGITransport], slug: str) -> httpx.AsyncClient:
    around, transport = limited
    headers = {"Authorization": f"Bearer {await around.token(slug)}"}
    return httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers)


async def shop(acme: httpx.AsyncClient) -> str:
    await acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    made = await acme.post("/v1/apps/shop/machines", json={"config": {"image": "nginx"}})
    return f"/v1/apps/shop/machines/{made.json()['id']}"


async def storm(acme: httpx.AsyncClient, method: str, path: str) -> list[httpx.Response]:
    return [await acme.request(method, path) for _ in range(STORM)]


async def test_an_action_on_a_machine_is_refused_when_it_comes_too_often(limited) -> None:
    acme = await client(limited, "acme")
    one = await shop(acme)
    answers = await storm(acme, "POST", f"{one}/cordon")
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 200]
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["fly-request-id"]
    assert refused.json()["error"].startswith("rate_limited: too many requests")
    assert refused.json()["hint"] == "ask again in 1 s"


async def test_each_action_and_each_machine_has_its_own_bucket(limited) -> None:
    acme = await client(limited, "acme")
    one = await shop(acme)
    other = await acme.post("/v1/apps/shop/machines", json={"config": {"image": "nginx"}})
    await storm(acme, "POST", f"{one}/cordon")
    assert (await acme.post(f"{one}/uncordon")).status_code == 200
    assert (
        await acme.post(f"/v1/apps/shop/machines/{other.json()['id']}/cordon")
    ).status_code == 200


async def test_another_organization_empties_no_bucket_of_ours(limited) -> None:
    acme, rival = await client(limited, "acme"), await client(limited, "rival")
    one = await shop(acme)
    foreign = await storm(rival, "POST", f"{one}/cordon")
    assert {answer.status_code for answer in foreign} == {403, 429}
    assert (await acme.post(f"{one}/cordon")).status_code == 200


async def test_reads_and_parallel_waits_have_more_room(limited) -> None:
    acme = await client(limited, "acme")
    one = await shop(acme)
    reads = await storm(acme, "GET", one)
    assert [answer.status_code for answer in reads[:10]] == [200] * 10
    waits = [await acme.get(f"{one}/wait", params={"state": "started"}) for _ in range(9)]
    assert {answer.status_code for answer in waits} == {200}


async def test_apps_and_other_resources_are_not_limited_like_machines(limited) -> None:
    acme = await client(limited, "acme")
    await shop(acme)
    for path in ("/v1/apps/shop", "/v1/tokens/current", "/v1/platform/regions"):
        assert {answer.status_code for answer in await storm(acme, "GET", path)} == {200}


async def test_a_bad_token_costs_nobody_anything(limited) -> None:
    acme = await client(limited, "acme")
    one = await shop(acme)
    nobody = httpx.AsyncClient(transport=limited[1], base_url="http://api")
    assert {a.status_code for a in await storm(nobody, "POST", f"{one}/cordon")} == {401}
    assert (await acme.post(f"{one}/cordon")).status_code == 200


def test_the_table_is_the_public_one() -> None:
    machine = "/v1/apps/{app_name}/machines/{machine_id}"
    assert limits.rate("POST", f"{machine}/start") == limits.Rate(1, 3)
    assert limits.rate("POST", "/v1/apps/{app_name}/machines") == limits.Rate(1, 3)
    assert limits.rate("GET", machine) == limits.Rate(5, 10)
    assert limits.rate("GET", f"{machine}/wait") == limits.Rate(5, 10)
    assert limits.rate("DELETE", "/v1/apps/{app_name}") == limits.Rate(100 / 60, 100)
    assert limits.rate("GET", "/v1/apps/{app_name}") is None


def test_memory_is_bounded_whatever_is_asked_for() -> None:
    counted = limits.Limits(JumpingClock())
    for number in range(limits.MOST_BUCKETS + 500):
        counted.take(number, limits.ACTION)
    assert len(counted) == limits.MOST_BUCKETS


@given(pauses=st.lists(st.floats(0, 3, allow_nan=False), max_size=60))
def test_no_more_pass_than_the_rate_allows(pauses: list[float]) -> None:
    clock = JumpingClock()
    counted = limits.Limits(clock)
    passed = elapsed = 0.0
    for pause in pauses:
        clock.at_s += pause
        elapsed += pause
        try:
            counted.take("x", limits.ACTION)
            passed += 1
        except limits.TooMany as refusal:
            clock.at_s += refusal.wait_s
            elapsed += refusal.wait_s
            counted.take("x", limits.ACTION)
            passed += 1
    assert passed <= limits.ACTION.burst + elapsed * limits.ACTION.per_s + 1e-6
