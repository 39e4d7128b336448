"""Deploys that control carries: killed on the way they go on, failing ones go back unnoticed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx
import pytest

from godwit.testing.platform import Platform, eventually

APP = "hello-reed"
OTHER_STRATEGIES = ("canary", "bluegreen", "immediate")
_DEADLINE_S = 600.0


class Load:
    """Requests through the edge, one after the other, until it is told to end."""

    def __init__(self, platform: Platform) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._platform = platform
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(0.05):
            try:
                answer = self._platform.get(APP)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
                continue
            if answer.status_code == 200:
                self.answered += 1
            else:
                self.failed.append(f"{answer.status_code} {answer.text[:200]}")


@contextmanager
def second_machine(platform: Platform) -> Iterator[None]:
    """Have two machines: one that is updated is not missed. One is left, whichever it is."""
    eventually(lambda: len(platform.machines(APP)) == 1)
    (first,) = platform.machines(APP)
    with platform.api as api:
        made = api.post(f"/v1/apps/{APP}/machines", json={"config": first["config"]})
        assert made.status_code == 200, made.text
    machine_id = made.json()["id"]
    try:
        eventually(lambda: healthy(platform, machine_id))
        yield
    finally:
        with platform.api as api:
            for one in platform.machines(APP)[1:]:
                api.delete(f"/v1/apps/{APP}/machines/{one['id']}", params={"force": "true"})


def healthy(platform: Platform, machine_id: str) -> bool:
    with platform.api as api:
        machine = api.get(f"/v1/apps/{APP}/machines/{machine_id}").json()
    checks = [one["status"] for one in machine.get("checks") or []]
    return machine["state"] == "started" and all(one == "passing" for one in checks)


def complete(platform: Platform) -> dict[str, Any]:
    """Return the newest release that did not fail."""
    with platform.api as api:
        releases = api.get(f"/x/v1/apps/{APP}/releases").json()["releases"]
    found: dict[str, Any] = next(one for one in releases if one["status"] == "complete")
    return found


def begin(platform: Platform, strategy: str = "rolling", **changes: Any) -> str:
    newest = complete(platform)
    with platform.api as api:
        body = {
            "image": newest["image_ref"],
            "definition": {**newest["config"], **changes},
            "options": {"strategy": strategy, "max_unavailable": 1, "wait_timeout_s": 240},
        }
        begun = api.post(f"/x/v1/apps/{APP}/deploys", json=body)
        assert begun.status_code == 201, begun.text
    return str(begun.json()["id"])


def look(platform: Platform, deploy_id: str) -> dict[str, Any]:
    """Return a deploy; control may be coming back."""
    ends = time.monotonic() + 120
    while True:
        try:
            with platform.api as api:
                answer = api.get(f"/x/v1/apps/{APP}/deploys/{deploy_id}")
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
        except httpx.HTTPError:
            pass
        assert time.monotonic() < ends, "control does not come back"
        time.sleep(0.2)


def ended(platform: Platform, deploy_id: str) -> dict[str, Any]:
    eventually(lambda: look(platform, deploy_id)["status"] != "running", deadline_s=_DEADLINE_S)
    return look(platform, deploy_id)


@pytest.mark.parametrize(
    "strategy",
    ["rolling", *(pytest.param(one, marks=pytest.mark.full) for one in OTHER_STRATEGIES)],
)
def test_a_deploy_goes_on_however_often_control_is_killed(
    platform: Platform, launched, strategy: str
) -> None:
    with second_machine(platform), Load(platform) as load:
        before = {one["id"] for one in platform.machines(APP)}
        deploy_id = begin(platform, strategy, **checked(platform), env={"DEPLOYED": strategy})
        for _ in range(3):
            seen = len(look(platform, deploy_id)["events"])
            eventually(
                lambda seen=seen: (
                    len(look(platform, deploy_id)["events"]) > seen
                    or look(platform, deploy_id)["status"] != "running"
                ),
            )
            platform.kill("control")
        done = ended(platform, deploy_id)
        assert done["status"] == "complete", (done["error"], done)
        machines = platform.machines(APP)
        assert len(machines) == 2
        assert ({one["id"] for one in machines} == before) == (strategy != "bluegreen")
        assert {one["config"]["env"]["DEPLOYED"] for one in machines} == {strategy}
        if strategy != "immediate":
            fails_and_goes_back(platform, strategy)
        else:
            eventually(lambda: all(healthy(platform, one["id"]) for one in machines))
    assert load.answered > 0
    if strategy != "immediate":
        assert load.failed == [], (load.answered, load.failed)


def fails_and_goes_back(platform: Platform, strategy: str) -> None:
    """Deploy what cannot start."""
    configs = {one["id"]: one["config"] for one in platform.machines(APP)}
    failing = begin(platform, strategy, experimental={"exec": ["/no/such/program"]})
    done = ended(platform, failing)
    assert done["status"] == "failed", done
    assert done["error"].endswith("; rolled back"), done["error"]
    assert {one["id"]: one["config"] for one in platform.machines(APP)} == configs


def checked(platform: Platform) -> dict[str, Any]:
    """Return the newest release's service with a check, which bluegreen asks for."""
    newest = complete(platform)
    check = {"interval": "5s", "timeout": "20s", "method": "GET", "path": "/healthz"}
    return {"http_service": {**newest["config"]["http_service"], "checks": [check]}}


def test_a_release_that_passes_its_check_and_then_crashes_goes_back(
    platform: Platform, launched
) -> None:
    eventually(lambda: len(platform.machines(APP)) == 1)
    configs = {one["id"]: one["config"] for one in platform.machines(APP)}
    crashing = begin(
        platform,
        **checked(platform),
        experimental={"exec": ["timeout", "5", "python3", "app.py"]},
    )
    done = ended(platform, crashing)
    assert done["status"] == "failed", done
    said = [one["message"] for one in done["events"]]
    assert "crash" in done["error"], done
    assert done["error"].endswith("; rolled back"), done["error"]
    # It was not that the check never passed.
    assert not any("not well within" in one for one in said), said
    assert {one["id"]: one["config"] for one in platform.machines(APP)} == configs
