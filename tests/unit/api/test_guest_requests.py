"""What a machine may ask without a token, over the API that everybody asks."""

import json
from typing import Any

import pytest
from fastapi.routing import APIRoute

from godwit.api.app import ROUTERS
from godwit.api.guest_requests import GuestRequests
from godwit.api.routing import Route
from godwit.base import errors
from godwit.wire import guest_api
from tests.unit.api.conftest import Served


class Guest:
    """A process in one of two machines of an app."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.machine = self.other = self.foreign = ""

    async def begin(self) -> None:
        for name, client in (("shop", self.served.acme), ("store", self.served.rival)):
            slug = "acme" if name == "shop" else "rival"
            await client.post("/v1/apps", json={"name": name, "org_slug": slug})
        self.machine = await self._make(self.served.acme, "shop")
        self.other = await self._make(self.served.acme, "shop")
        self.foreign = await self._make(self.served.rival, "store")

    async def _make(self, client: Any, app: str) -> str:
        body = {"config": {"image": "nginx:1", "metadata": {"color": "blue"}}}
        answer = await client.post(f"/v1/apps/{app}/machines", json=body)
        return str(answer.json()["id"])

    async def ask(
        self, method: str, path: str, body: Any = None, host_id: str = "a1b2c3d4", **headers: str
    ) -> tuple[int, Any]:
        sent = b"" if body is None else json.dumps(body).encode()
        request = guest_api.request(
            self.machine, method, path, (("host", "x"), *headers.items()), sent
        )
        requests = GuestRequests(self.served.world.ctx, self.served.app)
        told = await requests.answer(host_id, request.model_dump(mode="json"))
        answer = guest_api.GuestAnswer.model_validate(told)
        return answer.status, json.loads(answer.body) if answer.body else None

    @property
    def own(self) -> str:
        return f"/v1/apps/shop/machines/{self.machine}"


@pytest.fixture
async def guest(served: Served) -> Guest:
    made = Guest(served)
    await made.begin()
    return made


async def test_a_machine_reads_itself_and_writes_its_metadata(guest: Guest) -> None:
    status, shown = await guest.ask("GET", guest.own)
    assert (status, shown["id"]) == (200, guest.machine)
    assert await guest.ask("PATCH", f"{guest.own}/metadata", {"metadata": {"role": "lead"}}) == (
        204,
        None,
    )
    assert await guest.ask("GET", f"{guest.own}/metadata") == (
        200,
        {"color": "blue", "role": "lead"},
    )
    async with guest.served.world.store.read() as rows:
        (row,) = await rows.audit.page(None, before="", limit=1)
    assert row.principal == f"machine:{guest.machine}"


async def test_the_token_it_has_is_the_machine(guest: Guest) -> None:
    status, shown = await guest.ask("GET", "/v1/tokens/current")
    assert status == 200
    (token,) = shown["tokens"]
    assert token["restricted_to_machine"] == token["source_machine_id"] == guest.machine
    assert (token["org_slug"], token["apps"]) == ("acme", ["shop"])


async def test_other_machines_are_not_its_own(guest: Guest) -> None:
    for path in (
        f"/v1/apps/shop/machines/{guest.other}",
        f"/v1/apps/shop/machines/{guest.other}/metadata",
        f"/v1/apps/store/machines/{guest.foreign}",
        f"/v1/apps/store/machines/{guest.machine}",
    ):
        status, said = await guest.ask("GET", path)
        assert status in (403, 404), (path, said)
    assert (await guest.ask("POST", f"/v1/apps/shop/machines/{guest.other}/stop"))[0] == 403
    assert guest.served.world.host.machines[guest.other].state == "started"


async def test_only_what_is_declared_its_own_is_asked_without_a_token(guest: Guest) -> None:
    """Every route of the API, filled with the machine's own names."""
    names = {"app_name": "shop", "machine_id": guest.machine, "org_slug": "acme"}
    owned = 0
    for route in (each for one in ROUTERS for each in one.routes):
        assert isinstance(route, Route)
        if route.need in ("public", "basic"):
            continue
        path = route.path_format
        for name in route.param_convertors:
            path = path.replace(f"{{{name}}}", names.get(name, "x"))
        owned += route.own
        if not route.own:
            status, said = await guest.ask(_method(route), path, {})
            assert status == 403, (path, said)
            assert "without a token" in said["error"]
    assert owned >= 15


def _method(route: APIRoute) -> str:
    return next(iter(route.methods or ()))


async def test_what_grows_a_machine_or_lets_others_in_is_not_its_own(guest: Guest) -> None:
    for method, path in (
        ("POST", guest.own),
        ("DELETE", guest.own),
        ("POST", f"{guest.own}/exec"),
        ("PUT", f"{guest.own}/memory"),
        ("GET", f"{guest.own}/lease"),
        ("POST", f"{guest.own}/lease"),
    ):
        assert (await guest.ask(method, path, {}))[0] == 403, path


async def test_a_token_does_here_what_it_does_anywhere(guest: Guest) -> None:
    token = f"Bearer {await guest.served.world.token('acme')}"
    other = f"/v1/apps/shop/machines/{guest.other}"
    status, shown = await guest.ask("GET", other, authorization=token)
    assert (status, shown["id"]) == (200, guest.other)
    assert (await guest.ask("GET", guest.own, authorization="Bearer nonsense"))[0] == 401
    assert (await guest.ask("GET", "/v1/apps/shop", authorization=token))[0] == 200


async def test_a_host_speaks_for_its_own_machines_alone(guest: Guest) -> None:
    with pytest.raises(errors.Failure) as caught:
        await guest.ask("GET", guest.own, host_id="ffffffff")
    assert caught.value.code == "not_found"


async def test_nobody_becomes_a_machine_from_outside(guest: Guest) -> None:
    answer = await guest.served.nobody.get(guest.own, headers={"godwit.principal": guest.machine})
    assert answer.status_code == 401


@pytest.mark.parametrize("target", ["/../x", "//evil/x", "http://[", "/a b", "*", ""])
async def test_no_target_leaves_the_api(guest: Guest, target: str) -> None:
    try:
        status, _ = await guest.ask("GET", target)
    except (errors.Failure, json.JSONDecodeError) as error:
        assert isinstance(error, json.JSONDecodeError) or error.code == "invalid_argument"  # noqa: PT017
    else:
        assert status in (403, 404)


async def test_headers_that_are_no_text_are_refused(guest: Guest) -> None:
    with pytest.raises(errors.Failure) as caught:
        await guest.ask("GET", guest.own, **{"x-odd": "\xff\xfe"})
    assert caught.value.code == "invalid_argument"


async def test_an_answer_too_large_for_the_way_back_is_said(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_api, "MOST_ANSWER_BYTES", 10)
    with pytest.raises(errors.Failure, match="over 10 bytes"):
        await guest.ask("GET", guest.own)
