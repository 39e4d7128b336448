"""Leases, metadata, processes, memory, versions and suspend, as users ask for them."""

import pytest

from godwit.testing.platform import Platform

NONCE = "fly-machine-lease-nonce"


@pytest.fixture
def one(platform: Platform, launched):
    """Return the path of a machine that runs, and a client."""
    image = platform.deployed("hello-reed")["config"]["image"]
    config = {
        "image": image,
        "init": {"exec": ["sleep", "600"]},
        "restart": {"policy": "no"},
        "metadata": {"color": "blue"},
    }
    with platform.api as api:
        made = api.post("/v1/apps/hello-reed/machines", json={"config": config})
        assert made.status_code == 200, made.text
        path = f"/v1/apps/hello-reed/machines/{made.json()['id']}"
        platform.wait("hello-reed", made.json()["id"], "started")
        yield api, path
        api.delete(f"/x{path}/lease")
        api.delete(path, params={"force": "true"})


def test_whoever_holds_the_lease_changes_the_machine_alone(one, platform: Platform) -> None:
    api, path = one
    held = api.post(f"{path}/lease", params={"ttl": 900}).json()["data"]
    assert api.get(f"{path}/lease").json()["data"]["owner"].startswith("token:")
    assert api.post(f"{path}/lease").status_code == 409
    assert api.post(f"{path}/stop").status_code == 409
    assert api.post(f"{path}/exec", json={"command": ["true"]}).status_code == 409
    mine = {NONCE: held["nonce"]}
    assert api.post(f"{path}/stop", headers=mine).status_code == 200
    platform.wait("hello-reed", path.rpartition("/")[2], "stopped")
    assert api.post(f"{path}/start", headers=mine).status_code == 200
    assert api.delete(f"{path}/lease", headers=mine).json()["status"] == "success"
    assert api.get(f"{path}/lease").status_code == 404


def test_metadata_change_without_a_version_and_without_a_restart(one, platform: Platform) -> None:
    api, path = one
    before = api.get(path).json()
    assert api.patch(f"{path}/metadata", json={"metadata": {"size": "big"}}).status_code == 204
    assert api.delete(f"{path}/metadata/color").status_code == 204
    after = api.get(path).json()
    assert after["config"]["metadata"] == {"size": "big"}
    assert after["version"] == before["version"]
    assert [one["id"] for one in after["events"]] == [one["id"] for one in before["events"]]
    listed = api.get("/v1/apps/hello-reed/machines", params={"metadata.size": "big"}).json()
    assert [machine["id"] for machine in listed] == [before["id"]]
    mine = api.get("/v1/orgs/reed/machines").json()["machines"]
    assert {"size": "big"} in [machine["config"].get("metadata") for machine in mine]
    assert platform.json("machine", "metadata", "show", before["id"], "--app", "hello-reed") == {
        "size": "big"
    }


def test_a_guest_tells_its_processes_and_its_memory(one) -> None:
    api, path = one
    found = api.get(f"{path}/ps", params={"sort_by": "rss", "order": "desc"}).json()
    assert any("sleep" in process["command"] for process in found)
    assert [one["rss"] for one in found] == sorted((one["rss"] for one in found), reverse=True)
    memory = api.get(f"{path}/memory").json()
    assert 0 < memory["available_mb"] <= memory["limit_mb"] == 256


def test_an_old_version_is_replaced_and_a_stale_update_refused(one, platform: Platform) -> None:
    api, path = one
    before = api.get(path).json()
    config = {**before["config"], "env": {"A": "2"}}
    body = {"config": config, "current_version": before["version"]}
    assert api.post(path, json=body).status_code == 200
    platform.wait("hello-reed", path.rpartition("/")[2], "started")
    assert api.post(path, json=body).status_code == 409
    old = api.get(path, params={"version": before["version"]}).json()
    assert (old["state"], old["config"]) == ("replaced", before["config"])
    versions = api.get(f"{path}/versions").json()
    assert [one["user_config"] for one in versions] == [config, before["config"]]


def test_suspend_and_go_on_with_the_same_kernel_and_files(one, platform: Platform) -> None:
    api, path = one
    machine = path.rpartition("/")[2]
    app = ("--app", "hello-reed")
    look = "cat /proc/sys/kernel/random/boot_id /tmp/mark"

    def seen() -> str:
        return str(platform.exec("hello-reed", machine, "sh", "-c", look)["stdout"])

    platform.exec("hello-reed", machine, "sh", "-c", "echo kept > /tmp/mark")
    before = seen()
    assert "kept" in before
    platform.godwit("machine", "suspend", machine, "--wait", *app)
    assert api.get(path).json()["state"] == "suspended"
    platform.godwit("machine", "start", machine, "--wait", *app)
    history = platform.godwit("machine", "events", machine, *app)
    assert seen() == before, history
