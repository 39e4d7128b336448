"""Requests as public clients write them: empty values everywhere, lists in several spellings."""

from typing import Any

import httpx
import pytest

from tests.unit.api.conftest import Served

SHOP = "/v1/apps/shop/machines"
AS_GO_SENDS_IT: dict[str, Any] = {
    "image": "nginx:1",
    "init": {"exec": None, "entrypoint": None, "cmd": None, "tty": False, "swap_size_mb": None},
    "guest": None,
    "services": [
        {
            "protocol": "tcp",
            "internal_port": 8080,
            "autostop": False,
            "autostart": None,
            "ports": [{"port": 80, "start_port": None, "handlers": None, "http_options": None}],
            "checks": [{"type": "http", "port": None, "method": None, "headers": None}],
            "concurrency": {"type": "", "hard_limit": 0, "soft_limit": 0},
            "force_instance_key": None,
        }
    ],
    "metrics": None,
    "checks": None,
    "statics": None,
    "files": None,
    "schedule": "",
    "size": "",
    "restart": {"policy": "", "max_retries": 0, "gpu_bid_price": 0},
    "dns": None,
    "stop_config": {"timeout": "0s", "signal": ""},
    "standbys": None,
    "rootfs": {"persist": "", "size_gb": 0},
    "spot": None,
}


@pytest.fixture
async def acme(served: Served) -> httpx.AsyncClient:
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    return served.acme


@pytest.fixture
async def one(acme: httpx.AsyncClient) -> str:
    answer = await acme.post(SHOP, json={"config": AS_GO_SENDS_IT, "region": "", "lease_ttl": 0})
    assert answer.status_code == 200, answer.text
    assert answer.json()["config"] == AS_GO_SENDS_IT
    return f"{SHOP}/{answer.json()['id']}"


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "?version=&include_leases="),
        ("GET", "/wait?state=&version=&instance_id=&from_event_id=&timeout="),
        ("GET", "/events?limit="),
        ("GET", "/ps?sort_by=&order="),
        ("POST", "/restart?timeout=&signal=&force_stop="),
        ("POST", "/lease?ttl="),
    ],
)
async def test_what_has_no_value_in_a_query_is_unset(
    acme: httpx.AsyncClient, one: str, method: str, query: str
) -> None:
    answer = await acme.request(method, one + query)
    assert answer.status_code in (200, 201), answer.text


async def test_an_empty_force_forces_nothing(acme: httpx.AsyncClient, one: str) -> None:
    for query in ("?force=&kill=", "?force"):
        assert (await acme.delete(one + query)).status_code == 412
    assert (await acme.delete(f"{one}?force=&kill=true")).status_code == 200


async def test_lists_take_empty_values_and_lists_in_both_spellings(
    acme: httpx.AsyncClient, one: str
) -> None:
    # An organization's list is what was heard last.
    await acme.get(one)
    for query in (
        "?include_deleted=&region=&state=&summary=&include_leases=&cursor=&limit=",
        "?state=started&state=stopped",
        "?state=stopped,started&region=fra,lcl",
    ):
        found = (await acme.get(SHOP + query)).json()
        assert [machine["id"] for machine in found] == [one.rpartition("/")[2]], query
        found = (await acme.get("/v1/orgs/acme/machines" + query)).json()["machines"]
        assert [machine["id"] for machine in found] == [one.rpartition("/")[2]], query
    assert (await acme.get(f"{SHOP}?region=fra,ams")).json() == []
    answer = await acme.get("/v1/orgs/acme/machines?updated_after=&cursor=&limit=")
    assert answer.status_code == 200, answer.text


async def test_a_filter_by_metadata_may_be_for_nothing(acme: httpx.AsyncClient, one: str) -> None:
    assert one
    assert (await acme.get(f"{SHOP}?metadata.color=")).json() == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"statics": [{"guest_path": "/x"}]}, "config.statics[0].url_prefix: is required"),
        ({"spot": {"max_price_fraction": 1.5}}, "config.spot.max_price_fraction"),
        (
            {"checks": {"a": {"type": "http", "port": 1, "headers": [{"name": "a\r\nb"}]}}},
            "config.checks.a.headers[0].name: is not what a header may hold",
        ),
        (
            {
                "checks": {
                    "a": {"type": "http", "port": 1, "headers": [{"name": "a", "values": 1}]}
                }
            },
            "config.checks.a.headers[0].values: must be a list",
        ),
        (
            {
                "services": [
                    {
                        "protocol": "tcp",
                        "internal_port": 1,
                        "checks": [
                            {"type": "http", "headers": [{"name": "A", "values": ["x\r\ny"]}]}
                        ],
                    }
                ]
            },
            "config.services[0].checks[0].headers[0].values[0]: is not what a header may hold",
        ),
    ],
)
async def test_what_could_not_be_done_is_refused_by_its_name(
    acme: httpx.AsyncClient, config: dict[str, Any], said: str
) -> None:
    answer = await acme.post(SHOP, json={"config": {"image": "x", **config}})
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


async def test_regions_say_all_that_clients_decode(acme: httpx.AsyncClient) -> None:
    (region,) = (await acme.get("/v1/platform/regions")).json()["regions"]
    assert set(region) == {
        *("code", "name", "geo_region", "latitude", "longitude", "gateway_available"),
        *("requires_paid_plan", "deprecated", "mpg_available"),
    }
