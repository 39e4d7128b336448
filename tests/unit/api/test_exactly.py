"""A config comes back exactly as it was submitted: nothing added, dropped or rounded."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.api.conftest import Served

TEXT = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=0, max_size=12
)
NUMBERS = st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
ZERO = st.sampled_from([None, "", 0, False, [], {}])
VALUES = st.recursive(
    ZERO | NUMBERS | TEXT | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
PORT = st.integers(1, 65_535)
SERVICE = st.fixed_dictionaries(
    {"protocol": st.sampled_from(["tcp", "udp"]), "internal_port": PORT},
    optional={
        "autostop": st.sampled_from([True, False, "off", "stop", "suspend", "", None]),
        "autostart": st.booleans() | st.none(),
        "min_machines_running": st.integers(0, 3) | st.none(),
        "force_instance_key": st.none(),
        "ports": st.lists(st.fixed_dictionaries({"port": PORT}), max_size=2),
        "concurrency": st.none(),
        "x_later": VALUES,
    },
)
CONFIG = st.fixed_dictionaries(
    {"image": st.just("nginx:1")},
    optional={
        "env": st.dictionaries(
            st.text("ABC_", min_size=1, max_size=5), TEXT.filter(lambda t: t.isprintable())
        ),
        "metadata": st.dictionaries(TEXT.filter(bool), TEXT, max_size=3),
        "services": st.lists(SERVICE, max_size=2),
        "restart": st.sampled_from([None, {}, {"policy": ""}, {"policy": "always"}]),
        "init": st.sampled_from([None, {}, {"cmd": None}, {"cmd": ["a", ""], "tty": False}]),
        "checks": st.sampled_from([None, "", 0, [], {}]),
        "guest": st.just({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}),
        "auto_destroy": st.booleans() | st.none(),
        "schedule": st.sampled_from([None, ""]),
        "stop_config": st.sampled_from([{"timeout": 10**9}, {"timeout": "1m0s", "signal": ""}]),
        "x_unknown": VALUES,
    },
)


def text_of(config: Any) -> str:
    """Return JSON that tells 1 from 1.0 and true, in the order of the keys."""
    return json.dumps(config)


@pytest.fixture
async def acme(served: Served) -> httpx.AsyncClient:
    served.world.host.memory_mb = 10**9
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    return served.acme


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(config=CONFIG)
async def test_a_config_comes_back_as_it_went(
    served: Served, acme: httpx.AsyncClient, config: dict[str, Any]
) -> None:
    served.world.host.away = False
    wanted = text_of(config)
    made = await acme.post("/v1/apps/shop/machines", json={"config": config})
    assert made.status_code == 200, made.text
    one = f"/v1/apps/shop/machines/{made.json()['id']}"
    assert text_of(made.json()["config"]) == wanted
    assert text_of((await acme.get(one)).json()["config"]) == wanted
    listed = {machine["id"]: machine for machine in (await acme.get(one[:-15])).json()}
    assert text_of(listed[made.json()["id"]]["config"]) == wanted
    versions = (await acme.get(f"{one}/versions")).json()
    assert text_of(versions[0]["user_config"]) == wanted
    updated = await acme.post(one, json={"config": config})
    assert text_of(updated.json()["config"]) == wanted
    old = await acme.get(one, params={"version": made.json()["version"]})
    assert (old.json()["state"], text_of(old.json()["config"])) == ("replaced", wanted)
    served.world.host.away = True
    assert text_of((await acme.get(one)).json()["config"]) == wanted
    served.world.host.away = False
    assert (await acme.delete(one, params={"force": "true"})).status_code == 200
    assert text_of((await acme.get(one)).json()["config"]) == wanted


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "region": "", "lease_ttl": 0, "min_secrets_version": None, "lsvd": False},
        {"name": None, "region": None, "skip_secrets": True, "min_secrets_version": 0},
        {"skip_launch": False, "skip_service_registration": None, "lsvd": True},
    ],
)
async def test_zero_values_of_other_languages_mean_unset(
    acme: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    made = await acme.post("/v1/apps/shop/machines", json={"config": {"image": "x"}, **body})
    assert made.status_code == 200, made.text
    assert made.json()["name"]
    assert made.json()["region"] == "lcl"
    assert "nonce" not in made.json()
    one = f"/v1/apps/shop/machines/{made.json()['id']}"
    body = {"config": {"image": "x"}, "current_version": "", **body, "name": "", "region": ""}
    assert (await acme.post(one, json=body)).status_code == 200
