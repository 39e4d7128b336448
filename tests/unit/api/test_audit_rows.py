"""Every change, by whichever route, leaves an audit row that says whose it was."""

import httpx

from godwit.api import app as api
from godwit.control import registry_events
from godwit.control.records import AuditRow
from tests.unit.api import table
from tests.unit.api.conftest import Served

SPARED = {
    "/registry/events": "what the registry tells has tests of its own, below",
    "/v1/platform/placements": "a dry run that changes nothing",
    **{
        f"{table.APP}/secretkeys/{{secret_name}}/{use}": "the key stays what it is"
        for use in ("encrypt", "decrypt", "sign", "verify")
    },
    **{
        f"/v1/tokens/{what}": "a token that ends by itself, or a look at one"
        for what in ("oidc", "kms", "authenticate", "authorize")
    },
    f"/x{table.ONE}/terminals/{{terminal_id}}": "its opening left the row",
    f"/x{table.ONE}/terminals/{{terminal_id}}/input": "what is typed is nobody's to keep",
}
OF_THE_PLATFORM = {
    "/x/v1/hosts/{host_id}",
    "/x/v1/hosts/{host_id}/cordon",
    "/x/v1/hosts/{host_id}/uncordon",
    "/x/v1/hosts/{host_id}/drain",
    "/x/v1/host-tokens",
    "/x/v1/host-tokens/{host_token_id}",
    "/x/v1/hosts/{host_id}/images/prune",
    "/x/v1/keyring/rotate",
}
"""Changes that belong to no organization."""


async def newest(served: Served) -> AuditRow:
    async with served.world.ctx.store.read() as rows:
        return (await rows.audit.page(None, before="", limit=1))[0]


async def test_every_changing_route_leaves_a_row_in_its_organization(served: Served) -> None:
    things = await table.make_things(served)
    for case in table.destroying_last():
        if case.method == "GET" or case.path in SPARED:
            continue
        # An earlier case may have stopped it.
        await served.acme.post(things.path(f"{table.ONE}/start"))
        before = await newest(served)
        answer = await table.send(served.operator, case, things)
        assert answer.is_success, (case, answer.text)
        row = await newest(served)
        assert row.id != before.id, case
        assert (row.org_id is None) == (case.path in OF_THE_PLATFORM), case
        assert row.principal.startswith("token:"), case


async def test_no_read_leaves_a_row(served: Served) -> None:
    things = await table.make_things(served)
    before = await newest(served)
    for case in table.CASES:
        if case.method == "GET":
            await table.send(served.acme, case, things)
    assert await newest(served) == before


def pushed(repository: str, **more: object) -> dict:
    """Return a notification as docker-registry 2.8 sends it."""
    target = {"repository": repository, "tag": "v1", "digest": "sha256:" + "0" * 64, "size": 3}
    event = {"id": "e-1", "action": "push", "target": target, "actor": {"name": "token:tok_1"}}
    return {"events": [{**event, **more}]}


def as_registry(served: Served, secret: str = "s3cret") -> httpx.AsyncClient:
    """Return a client that logs in as the platform's registry does."""
    app = api.create(served.world.options(registry_secret="s3cret").ctx)
    password = registry_events.password(secret)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://api",
        auth=(registry_events.USER, password),
    )


async def test_a_push_leaves_a_row_that_says_who_and_what(served: Served) -> None:
    await table.make_things(served)
    async with as_registry(served) as registry:
        answer = await registry.post("/registry/events", json=pushed("shop/cache"))
    assert answer.status_code == 200
    row = await newest(served)
    assert (row.action, row.target, row.principal) == (
        "images.push",
        "shop/cache:v1",
        "token:tok_1",
    )
    assert row.org_id
    assert row.detail == {"digest": "sha256:" + "0" * 64, "event": "e-1"}


async def test_what_the_registry_tells_of_reads_leaves_none(served: Served) -> None:
    await table.make_things(served)
    before = await newest(served)
    async with as_registry(served) as registry:
        for told in (pushed("shop", action="pull"), {"events": []}, {}):
            assert (await registry.post("/registry/events", json=told)).status_code == 200
        for wrong in ([], {"events": 1}, {"events": [{"target": "x"}]}, "x"):
            assert (await registry.post("/registry/events", json=wrong)).status_code == 400
    assert await newest(served) == before


async def test_nobody_but_the_registry_tells_of_pushes(served: Served) -> None:
    await table.make_things(served)
    token = await served.world.token()
    before = await newest(served)
    async with as_registry(served, "wrong") as stranger:
        assert (await stranger.post("/registry/events", json=pushed("shop"))).status_code == 401
    for auth in ((registry_events.USER, ""), (registry_events.USER, token), ("x", token)):
        answer = await served.nobody.post("/registry/events", json=pushed("shop"), auth=auth)
        assert answer.status_code == 401
    assert await newest(served) == before


async def test_a_token_to_push_with_leaves_a_row_and_one_to_pull_none(served: Served) -> None:
    await table.make_things(served)
    token = await served.world.token("acme")
    before = await newest(served)
    for scope, left in (("repository:shop:pull", None), ("repository:shop:pull,push", "shop")):
        answer = await served.nobody.get(
            "/registry/token", params={"scope": scope}, auth=("x", token)
        )
        assert answer.status_code == 200
        row = await newest(served)
        assert (row == before) == (left is None)
    assert (row.action, row.target) == ("images.push_token", "shop")
    assert row.principal.startswith("token:")
