"""Every route with a request that succeeds: what the authorization and malformed tests walk."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from godwit.api.routing import Need, Route
from tests.unit.api.conftest import Served

MACHINE = {"config": {"image": "nginx"}}


@dataclass(frozen=True)
class Case:
    """A request that the right token may make."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    private: bool = True
    """Belongs to one organization: others are refused."""


APP = "/v1/apps/{app_name}"
ONE = "/v1/apps/{app_name}/machines/{machine_id}"
CASES = [
    Case("GET", "/v1/apps", {"org_slug": "acme"}),
    Case("POST", "/v1/apps", json={"name": "other", "org_slug": "acme"}),
    Case("GET", APP),
    Case("DELETE", APP, {"force": "true"}),
    Case("GET", f"{APP}/machines"),
    Case("POST", f"{APP}/machines", json=MACHINE),
    Case("GET", ONE),
    Case("POST", ONE, json=MACHINE),
    Case("DELETE", ONE, {"force": "true"}),
    Case("GET", f"{ONE}/events"),
    Case("GET", f"{ONE}/versions"),
    Case("GET", f"{ONE}/metadata"),
    Case("GET", f"{ONE}/metadata/{{key}}"),
    Case("GET", f"{ONE}/lease"),
    Case("POST", f"{ONE}/start"),
    Case("POST", f"{ONE}/stop", json={"signal": "SIGTERM"}),
    Case("POST", f"{ONE}/restart"),
    Case("POST", f"{ONE}/signal", json={"signal": "SIGHUP"}),
    Case("POST", f"{ONE}/exec", json={"command": ["true"]}),
    Case("GET", f"{ONE}/wait", {"state": "settled", "timeout": "2"}),
    Case("POST", f"{ONE}/cordon"),
    Case("POST", f"{ONE}/uncordon"),
    Case("GET", "/v1/platform/regions", private=False),
    Case("GET", "/v1/tokens/current", private=False),
    Case("GET", "/api/v1/apps/{app_name}/logs"),
    Case("GET", "/x/v1/apps/{app_name}/machines/{machine_id}"),
    Case("GET", "/x/v1/orgs", private=False),
    Case("POST", "/x/v1/orgs", json={"slug": "newcomer"}, private=False),
    Case("GET", "/x/v1/audit", {"org_slug": "acme"}),
    Case("GET", "/x/v1/usage", {"org_slug": "acme"}),
    Case("GET", "/x/v1/hosts", private=False),
    Case("GET", "/x/v1/apps/{app_name}/releases"),
    Case("POST", "/x/v1/apps/{app_name}/releases", json={"image": "nginx"}),
    Case("PATCH", "/x/v1/apps/{app_name}/releases/{release}", json={"status": "complete"}),
    Case("POST", "/x/v1/apps/{app_name}/builds", {"force": "true"}, content=b"tar"),
    Case("GET", "/x/v1/tokens", {"org_slug": "acme"}),
    Case("POST", "/x/v1/tokens", json={"name": "t", "org_slug": "acme", "scopes": []}),
    Case("DELETE", "/x/v1/tokens/{token_id}"),
    Case("GET", "/registry/token", private=False),
    Case("GET", "/openapi.json", private=False),
    Case("GET", "/v1/openapi.json", private=False),
    Case("GET", "/x/v1/health", private=False),
]
OPERATORS_ONLY = {("POST", "/x/v1/orgs"), ("GET", "/x/v1/hosts")}


def destroying_last() -> list[Case]:
    """Return the cases in an order in which each finds what it is about."""
    return sorted(CASES, key=lambda case: (case.method == "DELETE", -len(case.path)))


def declared(app: FastAPI) -> Iterator[tuple[str, str, Need]]:
    """Yield every route that is served, with what it needs."""
    for found in iter_route_contexts(app.routes):
        route = found.original_route
        assert isinstance(route, Route), f"{found.path} is not declared by a Route"
        for method in sorted(found.methods or ()):
            yield method, str(found.path), route.need


@dataclass(frozen=True)
class Things:
    """What the requests are about: all of them belong to acme."""

    machine_id: str
    token_id: str

    def path(self, template: str) -> str:
        """Return a template with the things in it."""
        return template.format(
            app_name="shop",
            machine_id=self.machine_id,
            token_id=self.token_id,
            key="color",
            release="1",
        )


async def make_things(served: Served) -> Things:
    """Make one of everything in acme."""
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    config = {"image": "nginx", "metadata": {"color": "blue"}}
    machine = await served.acme.post("/v1/apps/shop/machines", json={"config": config})
    await served.acme.post("/x/v1/apps/shop/releases", json={"image": "nginx"})
    token = await served.acme.post("/x/v1/tokens", json={"name": "x", "org_slug": "acme"})
    return Things(machine.json()["id"], token.json()["id"])


async def send(client: httpx.AsyncClient, case: Case, things: Things) -> httpx.Response:
    """Make a case's request."""
    return await client.request(
        case.method,
        things.path(case.path),
        params=case.query,
        json=case.json,
        content=case.content,
    )
