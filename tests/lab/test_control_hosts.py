"""Control on two hosts of two regions, on one real PostgreSQL; the first host loses its power."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from godwit.base import errors
from godwit.testing import postgres
from godwit.testing.platform import eventually
from lab import addressing, plan
from lab.laboratory import Lab
from lab.node import Host
from lab.plan import Plan
from tests.lab.conftest import made

ROOT = Path(__file__).resolve().parents[2]
REGIONS = ("fra", "iad")
DATABASE = "test_1"
API = "api.godwit.test"
CARRIED = "SELECT holder FROM runs WHERE holder IS NOT NULL AND ended_at_ms IS NULL"
APP_URL = "http://hello.godwit.test/"
pytestmark = [pytest.mark.full, pytest.mark.postgres, pytest.mark.timeout(1500)]


def two_regions() -> Plan:
    """Return two hosts, the first of which keeps its rows in the PostgreSQL of a client."""
    bare = plan.simple("p1", REGIONS, delay_ms=5)
    at = addressing.everywhere(bare)["iad-c1"].v4
    url = f"postgresql://godwit@{at}/{DATABASE}"
    hosts = {
        "fra": {"hosts": [{"settings": {"control.database": url}}], "clients": 1},
        "iad": {"hosts": [{}], "clients": 1},
    }
    settings = {"host.memory_mb": 3_072, "api.rate_limits": False, "api.name": API}
    return Plan.model_validate(bare.model_dump() | {"regions": hosts, "settings": settings})


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return the lab; no Godwit is up yet."""
    with made(two_regions(), root) as up:
        yield up


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[postgres.Server]:
    """Return the database server, in the network of a client."""
    node = lab.node("iad-c1")
    programs = postgres.programs()
    assert programs is not None
    made = postgres.Server(programs, listen=str(node.addresses.v4), within=node.tree.in_network)
    try:
        made.start()
        assert made.create() == DATABASE
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def first(lab: Lab, server: postgres.Server) -> Host:
    """Return the founder, with an app that has a secret and runs in the other region."""
    founder, second = lab.host("fra-1"), lab.host("iad-1")
    assert server.directory.exists()
    founder.start()
    token = founder.godwit("host", "token", "--region", "iad", "--control").strip()
    asked = ("host", "join", "--token", "-", "--region", "iad", "--control")
    second.exec("godwit", *asked, stdin=token + "\n", timeout_s=240)
    second.start()
    founder.godwit("images", "bootstrap")
    folder = founder.tree.directory / "home" / "hello"
    shutil.copytree(ROOT / "examples" / "hello", folder)
    launch = ("launch", "--name", "hello", "--org", "personal", "--yes", "--offline")
    eventually(lambda: in_touch(founder))
    founder.godwit(
        *launch, "--region", "iad", "--force-host-build", "--no-ha", cwd=folder, timeout_s=400
    )
    founder.godwit("secrets", "set", "WORD=sealed", "--app", "hello")
    founder.godwit("scale", "count", "2", "--region", "iad", "--app", "hello", "--yes")
    return founder


@pytest.fixture
def second(first: Host, lab: Lab) -> Host:
    return lab.host("iad-1")


def in_touch(host: Host) -> bool:
    """Tell whether a host's control counts both hosts."""
    return all(one["status"] == "ok" for one in host.json("host", "list"))


def through_the_edge(lab: Lab, region: str, *argv: str, timeout_s: float = 60.0) -> str:
    """Run the CLI of a client that knows the API by its name alone."""
    token = (lab.host("iad-1").tree.directory / "data" / "keys" / "admin.token").read_text()
    told = {"GODWIT_API_URL": f"http://{API}", "FLY_API_TOKEN": token.strip()}
    return lab.node(f"{region}-c1").exec("godwit", *argv, timeout_s=timeout_s, env=told)


def machines(lab: Lab, region: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        through_the_edge(lab, region, "machine", "list", "--app", "hello", "--json")
    )
    return found


def answered(lab: Lab, region: str) -> bool:
    try:
        machines(lab, region)
    except errors.Failure:
        return False
    return True


def test_both_hosts_run_control_with_the_same_keys_and_database(first: Host, second: Host) -> None:
    assert {"control", "keyring"} <= set(second.components())
    assert "registry" not in second.components()
    for name in ("admin.token", "sealing.key", "registry.key", "cluster.key"):
        one, two = (host.tree.directory / "data" / "keys" / name for host in (first, second))
        assert one.read_text() == two.read_text()
    assert list((second.tree.directory / "data" / "control").glob("*.db")) == []
    assert second.json("host", "list") == first.json("host", "list")


def test_what_one_keyring_sealed_the_other_opens(second: Host) -> None:
    """A machine gets its app's key from the keyring of whoever is asked."""
    second.godwit("secrets", "set", "OTHER=as well", "--app", "hello", timeout_s=400)
    (one, *_) = second.json("machine", "list", "--app", "hello")
    told = second.godwit("machine", "exec", one["id"], "env", "--app", "hello")
    assert "WORD=sealed" in told
    assert "OTHER=as well" in told


def test_a_root_key_that_one_makes_anew_opens_at_the_other(first: Host, second: Host) -> None:
    second.godwit("control", "rotate-keys", "--yes")
    for host, word in ((first, "THIRD=here"), (second, "FOURTH=there")):
        host.godwit("secrets", "set", word, "--app", "hello", timeout_s=400)
        (one, *_) = host.json("machine", "list", "--app", "hello")
        told = host.godwit("machine", "exec", one["id"], "env", "--app", "hello")
        assert "WORD=sealed" in told
        assert word in told


def test_the_apis_name_leads_through_every_edge(lab: Lab, first: Host) -> None:
    for region in REGIONS:
        assert eventually(lambda here=region: answered(lab, here))
        assert {one["id"] for one in machines(lab, region)} == {
            one["id"] for one in first.json("machine", "list", "--app", "hello")
        }


def test_a_deploy_goes_on_when_the_host_is_lost_whose_control_carries_it(
    lab: Lab, server: postgres.Server, first: Host, second: Host
) -> None:
    ((image,),) = server.execute(
        "SELECT image_ref FROM releases ORDER BY version DESC LIMIT 1", DATABASE
    )
    ended: list[str] = []

    def deploy() -> None:
        asked = ("deploy", "--app", "hello", "--image", str(image), "--env", "COLOR=blue")
        ended.append(through_the_edge(lab, "iad", *asked, timeout_s=400))

    second.signal("control", "STOP")
    deploying = threading.Thread(target=deploy)
    try:
        deploying.start()
        eventually(lambda: server.execute(CARRIED, DATABASE))
    finally:
        second.signal("control", "CONT")
    first.lose_power()
    assert answered(lab, "iad")
    deploying.join(420)
    assert ended, "the CLI did not come to its end"
    colors = {one["config"]["env"].get("COLOR") for one in machines(lab, "iad")}
    assert colors == {"blue"}
    assert lab.node("iad-c1").get(APP_URL, at=second.addresses)


def test_the_lost_host_comes_back_and_then_the_other_control_may_go(
    lab: Lab, first: Host, second: Host
) -> None:
    lab.give_power(first)
    first.start()
    eventually(lambda: in_touch(first))
    second.signal("control", "STOP")
    try:
        assert answered(lab, "fra")
        assert answered(lab, "iad")
    finally:
        second.signal("control", "CONT")
