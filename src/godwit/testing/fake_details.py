"""What `fake_api` answers about one machine's leases, metadata, versions, processes and memory."""

import json
from typing import Any

import httpx

from godwit.testing.fake_machine import FakeMachine, Json

_NONCE = "fly-machine-lease-nonce"
_NOW_S = 1_700_000_000


def ok(body: Any = None, status: int = 200) -> httpx.Response:
    """Answer that it is done."""
    return httpx.Response(status, json={"ok": True} if body is None else body)


def no(code: int, error: str, **more: str) -> httpx.Response:
    """Refuse."""
    return httpx.Response(code, json={"error": error, **more})


def body_of(request: httpx.Request) -> Json:
    """Return a request's body."""
    found = json.loads(request.content or b"{}")
    return found if isinstance(found, dict) else {}


def lease(request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """Take the lease, prolong it, give it back."""
    refused = under_lease(request, machine)
    if refused is not None:
        return refused
    if request.method == "DELETE":
        machine.lease = None
        return ok({"status": "success", "data": {"ok": True}})
    asked = body_of(request)
    nonce = request.headers.get(_NONCE) or f"nonce-{machine.id}"
    machine.lease = {
        "owner": "token:me",
        "description": asked.get("description", ""),
        "expires_at": _NOW_S + asked.get("ttl", 120),
        "nonce": nonce,
    }
    return ok({"status": "success", "data": machine.lease}, 201)


def under_lease(request: httpx.Request, machine: FakeMachine) -> httpx.Response | None:
    """Refuse who changes a machine under somebody else's lease."""
    held = (machine.lease or {}).get("nonce")
    if held is None or request.headers.get(_NONCE) == held:
        return None
    owner = (machine.lease or {})["owner"]
    return no(409, f"conflict: lease currently held by {owner}, expires at 2026-01-01T00:00:00Z")


def break_lease(_: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """End the lease."""
    if machine.lease is None:
        return no(404, "not_found: lease not found")
    machine.lease = None
    return httpx.Response(204)


def metadata(request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """Show the metadata, or change it."""
    present = machine.config.get("metadata") or {}
    if request.method == "GET":
        return ok(present)
    changed = {**present, **body_of(request)["metadata"]}
    kept = {key: value for key, value in changed.items() if value}
    machine.config = {**machine.config, "metadata": kept}
    return httpx.Response(204)


def versions(_: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """List the versions."""
    return ok(machine.versions)


def ps(request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """List the processes."""
    if machine.state != "started":
        return no(412, f"failed_precondition: machine is {machine.state}")
    found: list[Json] = [
        {"pid": 1, "command": "/init", "rss": 1_048_576, "cpu": 0, "rtime": 75},
        {
            "pid": 7,
            "command": "nginx",
            "rss": 9_437_184,
            "cpu": 2,
            "rtime": 70,
            "listen_sockets": [{"proto": "tcp", "address": "[::]:80"}],
        },
    ]
    key, order = request.url.params["sort_by"], request.url.params["order"]
    return ok(sorted(found, key=lambda one: one[key], reverse=order == "desc"))


def cpu(request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """Show the CPU's share: of a machine named `free` there is none."""
    del request
    if machine.name == "free":
        return httpx.Response(200, json={"baseline": None, "balance": None, "throttle": None})
    return httpx.Response(200, json={"baseline": 0.0625, "balance": 1234, "throttle": 50})


def memory(request: httpx.Request, machine: FakeMachine) -> httpx.Response:
    """Show the memory, change or reclaim it."""
    if request.url.path.endswith("/reclaim"):
        return ok({"actual_mb": body_of(request)["amount_mb"] // 2})
    if request.method == "PUT":
        machine.limit_mb = body_of(request)["limit_mb"]
    return ok({"available_mb": machine.limit_mb // 2, "limit_mb": machine.limit_mb})
