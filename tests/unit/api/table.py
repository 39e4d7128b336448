"""Every route with a request that succeeds: what the authorization and malformed tests walk."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from godwit.api.routing import Need, Route
from godwit.testing.hosts import SimulatedHost
from tests.unit.api.conftest import Served

MACHINE = {"config": {"image": "nginx"}}
POLICY = {
    "name": "web",
    "selector": {"all": True},
    "rules": [
        {"action": "allow", "direction": "egress", "ports": [{"protocol": "tcp", "port": 443}]}
    ],
}


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
    bare: int = 200
    """What it answers, if it is public, to somebody without a token."""


APP = "/v1/apps/{app_name}"
ONE = "/v1/apps/{app_name}/machines/{machine_id}"
CASES = [
    Case("GET", "/v1/apps", {"org_slug": "acme"}),
    Case("POST", "/v1/apps", json={"name": "other", "org_slug": "acme"}),
    Case("GET", APP),
    Case("DELETE", APP, {"force": "true"}),
    Case("GET", f"{APP}/ip_assignments"),
    Case("POST", f"{APP}/ip_assignments", json={"type": "v6"}),
    Case("DELETE", f"{APP}/ip_assignments/{{ip}}"),
    Case("GET", f"{APP}/network_policies"),
    Case("POST", f"{APP}/network_policies", json=POLICY),
    Case("GET", f"{APP}/network_policies/{{policy_id}}"),
    Case("DELETE", f"{APP}/network_policies/{{policy_id}}"),
    Case("GET", f"{APP}/machines"),
    Case("POST", f"{APP}/machines", json=MACHINE),
    Case("GET", ONE),
    Case("POST", ONE, json=MACHINE),
    Case("DELETE", ONE, {"force": "true"}),
    Case("GET", f"{ONE}/events"),
    Case("GET", f"{ONE}/versions"),
    Case("GET", f"{ONE}/metadata"),
    Case("GET", f"{ONE}/metadata/{{key}}"),
    Case("PATCH", f"{ONE}/metadata", json={"metadata": {"size": "big"}}),
    Case("PUT", f"{ONE}/metadata", json={"metadata": {"size": ""}}),
    Case("POST", f"{ONE}/metadata/{{key}}", json={"value": "green"}),
    Case("DELETE", f"{ONE}/metadata/{{key}}"),
    Case("GET", f"{ONE}/lease"),
    Case("POST", f"{ONE}/lease", json={"ttl": 1}),
    Case("DELETE", f"{ONE}/lease"),
    Case("DELETE", f"/x{ONE}/lease"),
    Case("GET", f"{ONE}/ps"),
    Case("GET", f"/x{ONE}/cpu"),
    Case("GET", f"{ONE}/memory"),
    Case("PUT", f"{ONE}/memory", json={"limit_mb": 128}),
    Case("POST", f"{ONE}/memory/reclaim", json={"amount_mb": 16}),
    Case("POST", f"{ONE}/start"),
    Case("POST", f"{ONE}/suspend"),
    Case("POST", f"{ONE}/stop", json={"signal": "SIGTERM"}),
    Case("POST", f"{ONE}/restart"),
    Case("POST", f"{ONE}/signal", json={"signal": "SIGHUP"}),
    Case("POST", f"{ONE}/exec", json={"command": ["true"]}),
    Case("POST", f"/x{ONE}/terminals", json={"command": ["sh"]}),
    Case("GET", f"/x{ONE}/terminals/{{terminal_id}}"),
    Case("POST", f"/x{ONE}/terminals/{{terminal_id}}/input", json={"data_base64": "aGk="}),
    Case("DELETE", f"/x{ONE}/terminals/{{terminal_id}}"),
    Case("GET", f"{ONE}/wait", {"state": "settled", "timeout": "2"}),
    Case("POST", f"{ONE}/cordon"),
    Case("POST", f"{ONE}/uncordon"),
    Case("POST", f"/x{ONE}/move"),
    Case("GET", f"/x{ONE}/move"),
    Case("DELETE", f"/x{ONE}/move"),
    Case("GET", "/v1/platform/regions", private=False),
    Case("POST", "/v1/platform/placements", json={"org_slug": "acme", "count": 1}),
    Case("GET", "/v1/tokens/current", private=False),
    Case("GET", "/api/v1/apps/{app_name}/logs"),
    Case("GET", "/x/v1/apps/{app_name}/machines/{machine_id}"),
    Case("GET", "/v1/orgs/{org_slug}/machines"),
    Case("GET", "/x/v1/orgs", private=False),
    Case("POST", "/x/v1/orgs", json={"slug": "newcomer"}, private=False),
    Case("GET", "/x/v1/orgs/{org_slug}"),
    Case("DELETE", "/x/v1/orgs/{org_slug}"),
    Case("PUT", "/x/v1/orgs/{org_slug}/cross_network_replays", json={"allowed": True}),
    Case("GET", "/x/v1/audit", {"org_slug": "acme"}),
    Case("GET", "/x/v1/usage", {"org_slug": "acme"}),
    Case("GET", "/x/v1/hosts", private=False),
    Case("GET", "/x/v1/hosts/{host_id}", private=False),
    Case("GET", "/x/v1/hosts/{host_id}/mesh", private=False),
    Case("POST", "/x/v1/hosts/{host_id}/cordon", private=False),
    Case("POST", "/x/v1/hosts/{host_id}/uncordon", private=False),
    Case("POST", "/x/v1/hosts/{host_id}/drain", private=False),
    Case("DELETE", "/x/v1/hosts/{host_id}", {"force": "true"}, private=False),
    Case("GET", "/x/v1/host-tokens", private=False),
    Case("POST", "/x/v1/host-tokens", json={"region": "fra"}, private=False),
    Case("DELETE", "/x/v1/host-tokens/{host_token_id}", private=False),
    Case("GET", "/x/v1/hosts/{host_id}/images", private=False),
    Case("POST", "/x/v1/hosts/{host_id}/images/prune", private=False),
    Case("GET", "/x/v1/apps/{app_name}/releases"),
    Case("POST", "/x/v1/apps/{app_name}/releases", json={"image": "nginx"}),
    Case("GET", "/x/v1/apps/{app_name}/releases/{release}"),
    Case("GET", "/x/v1/apps/{app_name}/deploys"),
    Case("POST", "/x/v1/apps/{app_name}/deploys", json={"kind": "secrets"}),
    Case("GET", "/x/v1/apps/{app_name}/deploys/{deploy_id}"),
    Case("POST", "/x/v1/apps/{app_name}/deploys/{deploy_id}/cancel"),
    Case("POST", "/x/v1/apps/{app_name}/rollback", json={"version": 1}),
    Case("PATCH", "/x/v1/apps/{app_name}/releases/{release}", json={"status": "complete"}),
    Case("POST", "/x/v1/apps/{app_name}/builds", {"force": "true"}, content=b"tar"),
    Case("GET", "/x/v1/registries", {"org_slug": "acme"}),
    Case(
        "PUT",
        "/x/v1/registries/{registry}",
        json={"org_slug": "acme", "username": "bot", "password": "geheim"},
    ),
    Case("DELETE", "/x/v1/registries/{registry}", {"org_slug": "acme"}),
    Case("GET", f"{APP}/secrets"),
    Case("POST", f"{APP}/secrets", json={"values": {"KEY": "geheim", "OLD": None}}),
    Case("GET", f"{APP}/secrets/{{secret_name}}"),
    Case("POST", f"{APP}/secrets/{{secret_name}}", json={"value": "geheim"}),
    Case("DELETE", f"{APP}/secrets/{{secret_name}}"),
    Case("GET", f"{APP}/secretkeys"),
    Case("GET", f"{APP}/secretkeys/{{secret_name}}"),
    Case("POST", f"{APP}/secretkeys/{{secret_name}}", json={"type": "hs256", "value": "A" * 64}),
    Case("POST", f"{APP}/secretkeys/{{secret_name}}/generate", json={"type": "hs256"}),
    Case("DELETE", f"{APP}/secretkeys/{{secret_name}}"),
    Case("POST", f"{APP}/secretkeys/{{secret_name}}/encrypt", json={"plaintext": "aGk="}),
    Case("POST", f"{APP}/secretkeys/{{secret_name}}/decrypt", json={"ciphertext": "aGk="}),
    Case("POST", f"{APP}/secretkeys/{{secret_name}}/sign", json={"plaintext": "aGk="}),
    Case("POST", f"{APP}/secretkeys/{{secret_name}}/verify", json={"signature": "aGk="}),
    Case("POST", "/v1/tokens/oidc", json={"aud": "sts.amazonaws.com"}, private=False),
    Case("POST", "/v1/tokens/kms", private=False),
    Case("POST", "/v1/tokens/authenticate", json={"header": "Bearer x"}, private=False),
    Case(
        "POST",
        "/v1/tokens/authorize",
        json={"header": "Bearer x", "access": {"action": "r", "org_slug": "acme"}},
        private=False,
        bare=400,
    ),
    Case("GET", "/oidc/{org_slug}/.well-known/openid-configuration", private=False),
    Case("GET", "/oidc/{org_slug}/.well-known/jwks", private=False),
    Case("GET", f"/x{APP}/secrets"),
    Case("POST", f"/x{APP}/secrets/rotate"),
    Case("POST", "/x/v1/keyring/rotate", private=False),
    Case("GET", "/x/v1/tokens", {"org_slug": "acme"}),
    Case("POST", "/x/v1/tokens", json={"name": "t", "org_slug": "acme", "scopes": []}),
    Case("POST", f"{APP}/deploy_token", json={"expiry": "24h"}),
    Case("DELETE", "/x/v1/tokens/{token_id}"),
    Case("GET", "/registry/token", private=False),
    Case("POST", "/registry/events", json={"events": []}, private=False),
    Case("GET", "/openapi.json", private=False),
    Case("GET", "/v1/openapi.json", private=False),
    Case("GET", "/x/v1/health", private=False),
]
ALSO_NEEDS = {
    ("POST", "/x/v1/apps/{app_name}/deploys"): ("machines:write",),
    ("POST", "/x/v1/apps/{app_name}/rollback"): ("machines:write",),
}
"""What acts on machines in its caller's name takes the scope for that too."""
OPERATORS_ONLY = {
    ("POST", "/x/v1/orgs"),
    ("DELETE", "/x/v1/orgs/{org_slug}"),
    ("GET", "/x/v1/hosts"),
    ("GET", "/x/v1/hosts/{host_id}"),
    ("GET", "/x/v1/hosts/{host_id}/mesh"),
    ("POST", "/x/v1/hosts/{host_id}/cordon"),
    ("POST", "/x/v1/hosts/{host_id}/uncordon"),
    ("POST", "/x/v1/hosts/{host_id}/drain"),
    ("DELETE", "/x/v1/hosts/{host_id}"),
    ("GET", "/x/v1/host-tokens"),
    ("POST", "/x/v1/host-tokens"),
    ("DELETE", "/x/v1/host-tokens/{host_token_id}"),
    ("GET", "/x/v1/hosts/{host_id}/images"),
    ("POST", "/x/v1/hosts/{host_id}/images/prune"),
    ("POST", "/x/v1/keyring/rotate"),
}


def destroying_last() -> list[Case]:
    """Return the cases in an order in which each finds what it is about."""
    last = "/x/v1/orgs/{org_slug}"
    return sorted(
        CASES, key=lambda case: (case.method == "DELETE", case.path == last, -len(case.path))
    )


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
    deploy_id: str
    terminal_id: str
    host_token_id: str
    policy_id: str
    served: Served

    async def end_deploys(self) -> None:
        """End what is under way: no worker runs here."""
        async with self.served.world.store.write() as rows:
            for row in await rows.runs.free(2**62, 10):
                await rows.runs.end(row.id, "complete", "", 1)

    def path(self, template: str) -> str:
        """Return a template with the things in it."""
        return template.format(
            app_name="shop",
            org_slug="acme",
            machine_id=self.machine_id,
            token_id=self.token_id,
            deploy_id=self.deploy_id,
            terminal_id=self.terminal_id,
            key="color",
            ip="198.51.100.1",
            release="1",
            registry="registry.example.com:5000",
            # One without machines: what is done with it disturbs no other case.
            host_id="b2c3d4e5",
            host_token_id=self.host_token_id,
            policy_id=self.policy_id,
            secret_name="TOKEN",
        )


async def make_things(served: Served) -> Things:
    """Make one of everything in acme."""
    await served.acme.post("/v1/apps", json={"name": "shop", "org_slug": "acme"})
    await served.acme.post("/v1/apps/shop/ip_assignments", json={"type": "shared_v4"})
    policy = await served.acme.post("/v1/apps/shop/network_policies", json=POLICY)
    config = {"image": "nginx", "metadata": {"color": "blue"}}
    machine = await served.acme.post("/v1/apps/shop/machines", json={"config": config})
    release = {"image": "nginx", "config": {"app": "shop"}}
    await served.acme.post("/x/v1/apps/shop/releases", json=release)
    deploy = await served.acme.post("/x/v1/apps/shop/deploys", json={"kind": "secrets"})
    await served.acme.post("/v1/apps/shop/secrets", json={"values": {"TOKEN": "geheim-eins"}})
    await served.acme.post("/v1/apps/shop/secretkeys/TOKEN/generate", json={"type": "hs256"})
    token = await served.acme.post("/x/v1/tokens", json={"name": "x", "org_slug": "acme"})
    machine_id = machine.json()["id"]
    await served.acme.get(f"/v1/apps/shop/machines/{machine_id}/wait")
    terminal = await served.acme.post(
        f"/x/v1/apps/shop/machines/{machine_id}/terminals", json={"command": ["sh"]}
    )
    hosts = served.world.hosts
    if "b2c3d4e5" not in hosts.by_id:
        idle = SimulatedHost("b2c3d4e5", region="ams", stream=served.world.stream)
        await served.world.add_host(idle, 65_538)
    host_token = await served.operator.post("/x/v1/host-tokens", json={})
    things = Things(
        machine_id,
        token.json()["id"],
        deploy.json()["id"],
        terminal.json()["id"],
        host_token.json()["id"],
        policy.json()["id"],
        served,
    )
    await things.end_deploys()
    return things


async def send(client: httpx.AsyncClient, case: Case, things: Things) -> httpx.Response:
    """Make a case's request; one about a lease leaves the machine without one."""
    headers = {}
    if case.method == "DELETE" and case.path.startswith("/x/v1/orgs"):
        # What an earlier case made.
        await client.delete("/v1/apps/other")
    about_lease = case.path.endswith("/lease")
    lease = things.path(f"{ONE}/lease")
    if about_lease and case.method == "DELETE":
        headers = _nonce(await client.post(lease))
    answer = await client.request(
        case.method,
        things.path(case.path),
        params=case.query,
        json=case.json,
        content=case.content,
        headers=headers,
    )
    if case.path.endswith(("/deploys", "/rollback")):
        await things.end_deploys()
    if about_lease and case.method == "POST":
        await client.delete(lease, headers=_nonce(answer))
    return answer


def _nonce(answer: httpx.Response) -> dict[str, str]:
    if not answer.is_success:
        return {}
    return {"fly-machine-lease-nonce": answer.json()["data"]["nonce"]}
