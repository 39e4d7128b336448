"""`/v1/tokens/authenticate` and `authorize`: what services ask in a token's stead, without one."""

import base64
from typing import Any

import pytest

from tests.unit.api import table
from tests.unit.api.conftest import Served

CHECK, ALLOW = "/v1/tokens/authenticate", "/v1/tokens/authorize"


async def test_good_tokens_are_told_with_what_limits_them_and_others_left_out(
    served: Served,
) -> None:
    await table.make_things(served)
    secret = await served.world.token("acme", scopes=("apps:read",))
    made = await served.acme.post("/v1/apps/shop/deploy_token", json={"expiry": "1h"})
    deploy = made.json()["token"]
    answer = await served.nobody.post(CHECK, json={"header": f"FlyV1 {secret},godwit_x,{deploy}"})
    assert answer.status_code == 200, answer.text
    one, other = answer.json()
    assert base64.b64decode(one["permission_token"]).decode() == secret
    limits = {caveat["type"]: caveat["body"] for caveat in one["caveats"]}
    assert limits == {
        "GodwitScopes": {"scopes": ["apps:read"]},
        "GodwitOrganizations": {"slugs": ["acme"]},
    }
    limits = {caveat["type"]: caveat["body"] for caveat in other["caveats"]}
    assert limits["GodwitApplications"] == {"names": ["shop"]}
    assert set(limits["GodwitExpiry"]) == {"not_after"}
    for header in (f"Bearer {secret}", secret):
        assert len((await served.nobody.post(CHECK, json={"header": header})).json()) == 1
    assert (await served.nobody.post(CHECK, json={"header": "Bearer x"})).json() == []
    nothing = await served.nobody.post(CHECK, json={"header": "FlyV1 ,"})
    assert (nothing.status_code, "holds no token" in nothing.text) == (400, True)


@pytest.mark.parametrize(
    ("scope", "access"),
    [
        ("apps:read", {"action": "r", "app_name": "shop"}),
        ("apps:write", {"action": "wd", "app_name": "shop", "org_slug": "acme"}),
        ("machines:read", {"action": "r", "app_name": "shop", "machine_id": "…"}),
        ("machines:write", {"action": "C", "app_name": "shop", "machine_id": "…"}),
        (
            "machines:exec",
            {"action": "C", "app_name": "shop", "machine_id": "…", "command": ["ls"]},
        ),
        (
            "machines:write",
            {"action": "w", "app_name": "shop", "machine_id": "…", "machine_feature": "metadata"},
        ),
        ("images:pull", {"action": "r", "app_name": "shop", "app_feature": "images"}),
        ("images:push", {"action": "w", "app_name": "shop", "app_feature": "images"}),
        ("orgs:read", {"action": "r", "org_slug": "acme"}),
        ("builds:write", {"action": "c", "org_slug": "acme", "org_feature": "builder"}),
    ],
)
async def test_an_access_needs_its_scope_and_its_organization(
    served: Served, scope: Any, access: dict[str, Any]
) -> None:
    things = await table.make_things(served)
    if "machine_id" in access:
        access = access | {"machine_id": things.machine_id}
    lacking = await served.world.token("acme", scopes=("tokens:read",))
    foreign = await served.world.token("rival", scopes=(scope,))
    having = await served.world.token("acme", scopes=(scope,))
    for secret in (lacking, foreign):
        body = {"header": f"Bearer {secret}", "access": access}
        assert (await served.nobody.post(ALLOW, json=body)).status_code == 400
    body = {"header": f"FlyV1 {lacking},{having}", "access": access}
    allowed = await served.nobody.post(ALLOW, json=body)
    assert allowed.status_code == 200, allowed.text
    told = allowed.json()
    assert told["access"]["action"] == access["action"]
    assert base64.b64decode(told["verified_token"]["permission_token"]).decode() == having


@pytest.mark.parametrize(
    ("access", "why"),
    [
        ({"action": "", "app_name": "shop"}, "action"),
        ({"action": "rx", "app_name": "shop"}, "letters rwcdC"),
        ({"action": "r"}, "name an app_name or an org_slug"),
        ({"action": "r", "machine_id": "0000000000000a"}, "app_name: is required"),
        ({"action": "r", "app_name": "shop", "command": ["ls"]}, "machine_id: is required"),
        (
            {"action": "r", "app_name": "shop", "machine_id": "0000000000000b"},
            "has no machine '0000000000000b'",
        ),
        (
            {"action": "r", "app_name": "shop", "machine_id": "a", "volume_id": "vol_1"},
            "one thing of an app",
        ),
        ({"action": "r", "app_name": "shop", "volume_id": "vol_1"}, "no volumes"),
        ({"action": "r", "org_slug": "acme", "org_feature": "litefs-cloud"}, "'litefs-cloud'"),
        ({"action": "r", "org_slug": "rival", "app_name": "shop"}, "is not of 'rival'"),
        ({"action": "r", "app_name": "nope"}, "app 'nope' not found"),
    ],
)
async def test_an_access_to_nothing_is_refused_with_its_reason(
    served: Served, access: dict[str, Any], why: str
) -> None:
    await table.make_things(served)
    body = {"header": f"Bearer {await served.world.token('acme')}", "access": access}
    answer = await served.nobody.post(ALLOW, json=body)
    assert answer.status_code == 400, answer.text
    assert why in answer.text
