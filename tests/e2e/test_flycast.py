"""Private addresses of apps, in real microVMs: found by name, woken, closed to everybody else."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from godwit.testing import platform as testing
from godwit.testing.platform import Platform, eventually
from tests.e2e.test_isolation import CONNECT, FETCH, RESOLVE, Guest

APP = "inner"
NAME = f"{APP}.flycast"
SERVER = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {"machine": os.environ["FLY_MACHINE_ID"], "headers": self.headers.items()}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
"""Tells what it was asked with, and who it is."""
SAID = ("fly-src", "fly-src-signature")
FORGE = (
    "import sys, urllib.request\n"
    "lie = {'Fly-Src': 'instance=me', 'Fly-Src-Signature': 'AAAA', 'Fly-Src-OptIn': '*'}\n"
    "asked = urllib.request.Request(sys.argv[1], headers=lie)\n"
    "print(urllib.request.urlopen(asked, timeout=30).read().decode())"
)


@dataclass(frozen=True)
class Inner:
    """An app that answers inside alone, with one machine, which is stopped."""

    machine: str
    address: str


@pytest.fixture(scope="module")
def reed(platform: Platform, launched: dict[str, str]) -> Guest:
    return Guest(platform, "hello-reed")


@pytest.fixture(scope="module")
def marsh(platform: Platform, launched: dict[str, str]) -> Guest:
    return Guest(platform, "hello-marsh")


@pytest.fixture(scope="module")
def inner(platform: Platform, reed: Guest) -> Iterator[Inner]:
    config = reed.machine["config"]
    platform.godwit("apps", "create", APP, "--org", "reed")
    platform.godwit("ips", "allocate-v6", "--private", "--app", APP)
    with platform.api as api:
        (given,) = api.get(f"/v1/apps/{APP}/ip_assignments").json()["ips"]
        assert given["network"] == {"name": "default", "org_slug": "reed"}
        service = config["services"][0] | {"autostart": True}
        wanted = {key: config[key] for key in ("image", "guest") if key in config}
        wanted |= {"services": [service], "init": {"exec": ["python3", "-c", SERVER]}}
        body: dict[str, Any] = {"config": wanted}
        made = api.post(f"/v1/apps/{APP}/machines", json=body)
        assert made.status_code == 200, made.text
        machine = made.json()["id"]
        platform.wait(APP, machine, "started")
        stopped = api.post(f"/v1/apps/{APP}/machines/{machine}/stop")
        assert stopped.status_code == 200, stopped.text
        platform.wait(APP, machine, "stopped")
    yield Inner(machine, given["ip"])
    platform.godwit("apps", "destroy", APP, "--yes")


def test_its_name_wakes_a_stopped_machine(inner: Inner, reed: Guest) -> None:
    alone = str([inner.address])
    eventually(lambda: reed.python(RESOLVE, NAME)["stdout"].strip() == alone)
    # A slow host may start it for longer than one attempt waits.
    eventually(lambda: inner.machine in reed.python(FETCH, f"http://{NAME}/")["stdout"])
    reed.platform.wait(APP, inner.machine, "started")


def test_it_can_check_who_asks(inner: Inner, reed: Guest) -> None:
    eventually(lambda: inner.machine in reed.python(FETCH, f"http://{NAME}/")["stdout"])
    read = ("cat", "/.fly/fly-src.pub")
    own = reed.platform.exec(APP, inner.machine, *read)["stdout"]
    assert own == reed.platform.exec(reed.app, reed.machine["id"], *read)["stdout"]
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(own))
    for program in (FETCH, FORGE):
        told = json.loads(reed.python(program, f"http://{NAME}/")["stdout"])
        headers = [(name.lower(), value) for name, value in told["headers"]]
        ((source, signature),) = zip(
            *([value for name, value in headers if name == wanted] for wanted in SAID), strict=True
        )
        key.verify(base64.b64decode(signature), source.encode())
        who, _, at = source.rpartition(";ts=")
        assert who == f"instance={reed.machine['id']};app={reed.app};org=reed"
        assert abs(time.time() - int(at)) < 120
        assert "fly-src-optin" not in dict(headers)


def test_another_organization_has_no_name_and_no_way_to_it(inner: Inner, marsh: Guest) -> None:
    assert marsh.python(RESOLVE, NAME)["exit_code"] == 1
    assert marsh.python(CONNECT, inner.address, "80")["exit_code"] == 1


def test_it_is_not_reached_from_outside(inner: Inner, platform: Platform) -> None:
    host = f"{APP}.godwit.localhost"

    def refused() -> bool:
        url = f"http://{testing.HOST_V4}:8080/"
        return httpx.get(url, headers={"Host": host}, timeout=60).status_code == 404

    eventually(refused)
