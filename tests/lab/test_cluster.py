"""Hosts of three regions as one cluster: joined, in one mesh, with an app; one cut off or off."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from godwit.base import errors
from godwit.testing.platform import eventually
from lab import cluster, plan
from lab.laboratory import Lab
from lab.node import Host
from tests.lab.conftest import made

REGIONS = ("fra", "iad", "nrt")
ROOT = Path(__file__).resolve().parents[2]
BUS_PORT = 4_222
URL = "http://hello.godwit.test/"
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return three joined hosts, far from one another."""
    settings = {"host.memory_mb": 1_536, "api.rate_limits": False}
    with made(plan.simple("c1", REGIONS, settings=settings), root) as up:
        cluster.start(up, print)
        yield up


@pytest.fixture(scope="module")
def deployed(lab: Lab) -> Lab:
    """Return the lab, with a machine of `examples/hello` in each region."""
    host = lab.host("fra-1")
    host.godwit("images", "bootstrap")
    folder = host.tree.directory / "home" / "hello"
    shutil.copytree(ROOT / "examples" / "hello", folder)
    launch = ("launch", "--name", "hello", "--org", "personal", "--yes", "--offline")
    host.godwit(*launch, "--region", "fra", "--force-host-build", "--no-ha", cwd=folder)
    each = ("--max-per-region", "1", "--region", ",".join(REGIONS))
    host.godwit("scale", "count", str(len(REGIONS)), *each, "--yes", cwd=folder)
    return lab


def machines(lab: Lab) -> list[dict[str, Any]]:
    """Return the app's machines as the API shows them."""
    found: list[dict[str, Any]] = lab.host("fra-1").json("machine", "list", "--app", "hello")
    return found


def answer(lab: Lab, region: str) -> str:
    """Return what a region's client gets from its own region; nothing while that does not."""
    try:
        said = lab.node(f"{region}-c1").get(URL, at=lab.host(f"{region}-1").addresses)
    except errors.Failure:
        return ""
    return said if f"region {region}," in said else ""


def members(lab: Lab) -> dict[str, dict[str, Any]]:
    """Return the cluster's hosts by region, as the first one shows them."""
    return {one["region"]: one for one in lab.host("fra-1").json("host", "list")}


def in_touch(lab: Lab, *regions: str) -> bool:
    """Tell whether the first host counts these as well."""
    return all(members(lab)[region]["status"] == "ok" for region in regions)


def met(lab: Lab, here: str, there: str) -> bool:
    """Tell whether a region's host reaches another's through the mesh."""
    address = members(lab)[there]["mesh_address"]
    try:
        lab.host(f"{here}-1").exec("ping", "-n", "-c", "1", "-W", "1", address)
    except errors.Failure:
        return False
    return True


def test_every_host_is_a_member_and_only_the_first_one_is_everything(lab: Lab) -> None:
    found = members(lab)
    assert set(found) == set(REGIONS)
    eventually(lambda: in_touch(lab, *REGIONS))
    assert {"control", "registry", "keyring"} <= set(found["fra"]["roles"])
    for region in ("iad", "nrt"):
        assert set(found[region]["roles"]) == {"bus", "agent", "edge", "dns"}
        running = set(lab.host(f"{region}-1").components())
        assert running >= {"bus", "agent", "edge", "dns"}
        assert not running & {"control", "registry", "keyring"}


def test_every_host_meets_every_other_in_the_mesh(lab: Lab) -> None:
    for here in REGIONS:
        for there in set(REGIONS) - {here}:
            eventually(lambda a=here, b=there: met(lab, a, b))


def test_every_regions_bus_answers_the_others(lab: Lab) -> None:
    for here in REGIONS:
        for there in set(REGIONS) - {here}:
            bus = f"{members(lab)[there]['mesh_address']} {BUS_PORT}"
            eventually(lambda a=here, b=bus: greeted(lab.host(f"{a}-1"), b))


def greeted(host: Host, bus: str) -> bool:
    """Tell whether a bus says what it is to a host."""
    address, port = bus.split()
    ask = "import socket,sys;print(socket.create_connection(sys.argv[1:],5).recv(4).decode())"
    try:
        return host.exec("python3", "-c", ask, address, port) == "INFO\n"
    except errors.Failure:
        return False


def measured(lab: Lab, here: str, there: str) -> float:
    """Return how far an edge finds another region's host, ms; 0 while it did not ask it."""
    metrics = lab.host(f"{here}-1").exec("curl", "-sf", "http://127.0.0.1:8090/metrics")
    name = f'godwit_edge_backhaul_rtt_microseconds{{host="{members(lab)[there]["host_id"]}"}}'
    found = [line for line in metrics.splitlines() if line.startswith(name)]
    return float(found[0].rpartition(" ")[2]) / 1_000 if found else 0.0


def test_every_edge_answers_every_other_as_far_away_as_it_is(lab: Lab) -> None:
    for here in REGIONS:
        for there in set(REGIONS) - {here}:
            eventually(lambda a=here, b=there: measured(lab, a, b) > 0)
            assert measured(lab, here, there) > 1.8 * lab.plan.delay_ms(here, there)


def reached(lab: Lab, here: str) -> dict[str, dict[str, Any]]:
    """Return how a region's host reaches the others', by their regions."""
    shown = lab.host("fra-1").json("host", "show", members(lab)[here]["host_id"])
    return {one["region"]: one for one in shown["mesh"] or ()}


def test_how_every_host_reaches_every_other_is_shown(lab: Lab) -> None:
    for here in REGIONS:
        others = set(REGIONS) - {here}

        def measured_all(at: str = here, all_of: set[str] = others) -> dict[str, dict[str, Any]]:
            found = reached(lab, at)
            known = set(found) == all_of and all(one["rtt_ms"] for one in found.values())
            return found if known else {}

        found = eventually(measured_all)
        for there in others:
            address = lab.host(f"{there}-1").addresses.v4
            assert not found[there]["silent"]
            assert found[there]["handshake_at"]
            assert found[there]["endpoint"] == f"{address}:51820"
            assert found[there]["received_bytes"] > 0 < found[there]["sent_bytes"]
            assert found[there]["rtt_ms"] > 1.8 * lab.plan.delay_ms(here, there)


def test_a_region_that_is_cut_off_is_back_in_the_mesh_once_it_is_healed(lab: Lab) -> None:
    lab.cut("nrt")
    assert not met(lab, "fra", "nrt")
    eventually(lambda: met(lab, "fra", "iad"))
    lab.heal("nrt")
    eventually(lambda: met(lab, "fra", "nrt") and met(lab, "nrt", "iad"))
    eventually(lambda: in_touch(lab, *REGIONS))


def mesh_endpoint(host: Host, public_key: str) -> str:
    """Return where a host's WireGuard sends what is for a peer."""
    device = host.exec("sh", "-c", "ip -o link | grep -o 'mesh[0-9a-f]*' | head -n 1").strip()
    shown = host.exec("wg", "show", device, "endpoints")
    return dict(line.split("\t") for line in shown.splitlines()).get(public_key, "")


def mesh_key(host: Host) -> str:
    """Return the key by which others know a host."""
    file = host.tree.directory / "data" / "keys" / "mesh.key"
    return host.exec("wg", "pubkey", stdin=file.read_text()).strip()


def test_a_host_that_changes_its_endpoint_is_looked_for_there_by_all_others(lab: Lab) -> None:
    host, before = lab.host("iad-1"), members(lab)["iad"]
    # There and back again, as the lab's plan has it.
    for port in (51_899, 51_820):
        now = f"{host.addresses.v4}:{port}"
        told = {**host.settings, "listen.mesh": port, "host.endpoints": [now]}
        replace(host, settings=told).write_settings()
        host.godwit("upgrade")
        eventually(lambda at=now: members(lab)["iad"]["endpoints"] == [at])
        key = mesh_key(host)
        for region in ("fra", "nrt"):
            other = lab.host(f"{region}-1")
            eventually(lambda here=other, of=key, at=now: mesh_endpoint(here, of) == at)
            eventually(lambda here=region: met(lab, here, "iad") and met(lab, "iad", here))
        eventually(lambda: in_touch(lab, *REGIONS))
    assert members(lab)["iad"]["host_id"] == before["host_id"]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_each_region_has_a_machine_and_answers_its_own_clients(deployed: Lab) -> None:
    assert Counter(one["region"] for one in machines(deployed)) == Counter(REGIONS)
    for region in REGIONS:
        assert eventually(lambda here=region: answer(deployed, here))


@pytest.mark.full
def test_machines_reach_one_another_by_name_whatever_region_they_are_in(deployed: Lab) -> None:
    here, there = (
        next(one for one in machines(deployed) if one["region"] == region)
        for region in ("iad", "nrt")
    )
    name = f"{there['id']}.vm.hello.internal"
    code = f"import urllib.request as r;print(r.urlopen('http://{name}:8080/',timeout=20).read())"
    ask = ("machine", "exec", "--app", "hello", here["id"], "--", "python3", "-c", code)
    assert "region nrt" in deployed.host("fra-1").godwit(*ask)


def nearest(lab: Lab, machine: str) -> set[str]:
    """Return the regions of the two machines that are the nearest to one."""
    name = "top2.nearest.of.hello.internal"
    code = (
        f"import socket;[print(a[4][0]) for a in socket.getaddrinfo('{name}',80,socket.AF_INET6)]"
    )
    ask = ("machine", "exec", "--app", "hello", machine, "--", "python3", "-c", code)
    told = set(lab.host("fra-1").godwit(*ask).split())
    return {one["region"] for one in machines(lab) if one["private_ip"] in told}


@pytest.mark.full
def test_the_nearest_machines_are_those_to_which_the_way_is_short_now(deployed: Lab) -> None:
    here = next(one["id"] for one in machines(deployed) if one["region"] == "fra")
    eventually(lambda: nearest(deployed, here) == {"fra", "iad"})
    deployed.slow("fra", "iad", delay_ms=200)
    eventually(lambda: nearest(deployed, here) == {"fra", "nrt"})
    deployed.slow("fra", "iad")


@pytest.mark.full
def test_a_region_that_is_cut_off_serves_its_clients_and_nothing_is_doubled(
    deployed: Lab,
) -> None:
    before = {one["id"] for one in machines(deployed)}
    deployed.cut("nrt")
    assert eventually(lambda: answer(deployed, "nrt"))
    assert eventually(lambda: answer(deployed, "fra"))
    deployed.heal("nrt")
    eventually(lambda: in_touch(deployed, *REGIONS))
    assert {one["id"] for one in machines(deployed)} == before
    assert eventually(lambda: answer(deployed, "nrt"))


def test_a_host_that_lost_its_power_is_the_same_member_when_it_is_back(lab: Lab) -> None:
    host, before = lab.host("iad-1"), members(lab)["iad"]
    host.lose_power()
    lab.give_power(host)
    host.start()
    eventually(lambda: in_touch(lab, "iad"))
    eventually(lambda: met(lab, "iad", "nrt") and met(lab, "fra", "iad"))
    assert members(lab)["iad"]["host_id"] == before["host_id"]
    assert len(lab.host("fra-1").json("host", "list")) == len(REGIONS)
