"""Private addresses of apps, in real microVMs: found by name, woken, closed to everybody else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from godwit.testing import platform as testing
from godwit.testing.platform import Platform, eventually
from tests.e2e.test_isolation import CONNECT, FETCH, RESOLVE, Guest

APP = "inner"
NAME = f"{APP}.flycast"


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
        body: dict[str, Any] = {"config": wanted | {"services": [service]}}
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


def test_another_organization_has_no_name_and_no_way_to_it(inner: Inner, marsh: Guest) -> None:
    assert marsh.python(RESOLVE, NAME)["exit_code"] == 1
    assert marsh.python(CONNECT, inner.address, "80")["exit_code"] == 1


def test_it_is_not_reached_from_outside(inner: Inner, platform: Platform) -> None:
    host = f"{APP}.godwit.localhost"

    def refused() -> bool:
        url = f"http://{testing.HOST_V4}:8080/"
        return httpx.get(url, headers={"Host": host}, timeout=60).status_code == 404

    eventually(refused)
