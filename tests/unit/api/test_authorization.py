"""Every route against every scope and against a foreign organization."""

import pytest
from fastapi.routing import iter_route_contexts

from godwit.api.routing import Route
from godwit.base.principal import ALL_SCOPES
from tests.unit.api import table
from tests.unit.api.conftest import Served

NEEDS_NOTHING = ("public", "basic")


async def test_every_route_is_in_the_table_and_declares_what_it_needs(served: Served) -> None:
    served_routes = {(method, path) for method, path, _ in table.declared(served.app)}
    assert served_routes == {(case.method, case.path) for case in table.CASES}
    for _, path, need in table.declared(served.app):
        assert need in (*ALL_SCOPES, *NEEDS_NOTHING, "token"), path


def is_allowed(status: int) -> bool:
    return status not in (401, 403)


async def test_no_route_but_the_public_ones_answers_without_a_good_token(served: Served) -> None:
    things = await table.make_things(served)
    public = {(m, p) for m, p, need in table.declared(served.app) if need == "public"}
    for case in table.CASES:
        for client in (served.nobody, served.client("godwit_wrong")):
            status = (await table.send(client, case, things)).status_code
            expected = case.bare if (case.method, case.path) in public else 401
            assert status == expected, case


async def test_every_route_takes_exactly_its_own_scope(served: Served) -> None:
    things = await table.make_things(served)
    needs = {(method, path): need for method, path, need in table.declared(served.app)}
    for case in table.destroying_last():
        need = needs[case.method, case.path]
        if need in (*NEEDS_NOTHING, "token"):
            continue
        org = () if (case.method, case.path) in table.OPERATORS_ONLY else ("acme",)
        others = tuple(sorted(ALL_SCOPES - {need}))
        also = table.ALSO_NEEDS.get((case.method, case.path), ())
        without = served.client(await served.world.token(*org, scopes=others))
        lacking = await table.send(without, case, things)
        assert lacking.status_code == 403, case
        assert need in lacking.json()["error"], case
        having = served.client(await served.world.token(*org, scopes=(need, *also)))
        assert is_allowed((await table.send(having, case, things)).status_code), case


async def test_a_foreign_organization_gets_nothing(served: Served) -> None:
    things = await table.make_things(served)
    before = len(served.world.host.asked)
    for case in table.CASES:
        if case.private:
            answer = await table.send(served.rival, case, things)
            assert answer.status_code in (403, 404), case
    assert len(served.world.host.asked) == before


async def test_a_token_for_an_app_reaches_that_app_and_nothing_else(served: Served) -> None:
    things = await table.make_things(served)
    await served.acme.post("/v1/apps", json={"name": "second", "org_slug": "acme"})
    made = [
        await served.acme.post(f"/v1/apps/{app}/deploy_token", json={"expiry": "1h"})
        for app in ("shop", "second")
    ]
    own, other = (served.client(one.json()["token"]) for one in made)
    current = (await own.get("/v1/tokens/current")).json()["tokens"][0]
    assert (current["org_slug"], current["apps"]) == ("acme", ["shop"])
    for case in table.destroying_last():
        if not case.private:
            continue
        assert (await table.send(other, case, things)).status_code in (403, 404), case
        status = (await table.send(own, case, things)).status_code
        if "{app_name}" in case.path and not case.path.endswith("/deploy_token"):
            assert is_allowed(status), case
        else:
            assert status in (403, 404), case


async def test_a_token_for_an_app_is_nothing_once_the_app_is_gone(served: Served) -> None:
    await table.make_things(served)
    made = await served.acme.post("/v1/apps/shop/deploy_token", json={})
    own = served.client(made.json()["token"])
    assert (await own.delete("/v1/apps/shop", params={"force": "true"})).status_code == 202
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    assert (await own.get("/v1/apps/shop")).status_code == 403


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"app_name": "nope"}, "app 'nope' not found"),
        ({"app_name": "shop", "org_slug": "rival"}, "rival"),
        ({"app_name": "shop", "scopes": ["orgs:read"]}, "orgs:read cannot be had for one app"),
    ],
)
async def test_what_a_token_for_an_app_cannot_be(
    served: Served, body: dict[str, object], said: str
) -> None:
    await table.make_things(served)
    answer = await served.acme.post("/x/v1/tokens", json={"name": "t", **body})
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]


@pytest.mark.parametrize("method_path", sorted(table.OPERATORS_ONLY))
async def test_what_is_the_operators_is_not_a_tenants(
    served: Served, method_path: tuple[str, str]
) -> None:
    things = await table.make_things(served)
    case = next(case for case in table.CASES if (case.method, case.path) == method_path)
    assert (await table.send(served.acme, case, things)).status_code == 403
    assert is_allowed((await table.send(served.operator, case, things)).status_code)


async def test_machine_ids_of_another_app_are_not_found(served: Served) -> None:
    things = await table.make_things(served)
    await served.acme.post("/v1/apps", json={"name": "second", "org_slug": "acme"})
    await served.rival.post("/v1/apps", json={"name": "theirs", "org_slug": "rival"})
    for client, app in ((served.acme, "second"), (served.rival, "theirs")):
        answer = await client.get(f"/v1/apps/{app}/machines/{things.machine_id}")
        assert answer.status_code == 404


async def test_the_public_scheme_flyv1_takes_any_good_token_of_a_list(served: Served) -> None:
    secret = await served.world.token("acme")
    for value in (f"FlyV1 fm2_other,{secret}", f"FlyV1 {secret}", f"bearer {secret}"):
        answer = await served.nobody.get("/x/v1/orgs", headers={"Authorization": value})
        assert answer.status_code == 200
    for value in ("", "Bearer", f"Basic {secret}", secret, "FlyV1 ,,,", "Bearer \xff"):
        headers = [(b"authorization", value.encode("latin-1"))]
        answer = await served.nobody.get("/x/v1/orgs", headers=headers)
        assert answer.status_code == 401
        assert answer.json() == {"error": "Authenticate: token validation error"}


async def test_expired_and_revoked_tokens_are_refused(served: Served) -> None:
    made = await served.acme.post("/x/v1/tokens", json={"name": "short", "expiry": "1h"})
    client = served.client(made.json()["token"])
    assert (await client.get("/x/v1/orgs")).status_code == 200
    served.world.clock.skew_ms = 3_601_000
    assert (await client.get("/x/v1/orgs")).status_code == 401
    served.world.clock.skew_ms = 0
    assert (await served.acme.delete(f"/x/v1/tokens/{made.json()['id']}")).status_code == 204
    assert (await client.get("/x/v1/orgs")).status_code == 401


async def test_no_route_escapes_the_guard(served: Served) -> None:
    for found in iter_route_contexts(served.app.routes):
        assert isinstance(found.original_route, Route)
