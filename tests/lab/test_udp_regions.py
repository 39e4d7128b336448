"""A UDP service whose machine is in another region than the client that asks it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cluster, plan
from lab.laboratory import Lab
from tests.lab.conftest import made

ROOT = Path(__file__).resolve().parents[2]
ANYCAST = "203.0.113.53"
"""What an app may have for itself."""
ECHO = """
import socket
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind(("fly-global-services", 5353))
while True:
    data, client = taken.recvfrom(65536)
    taken.sendto(f"{client[0]} {client[1]} ".encode() + data, client)
"""
ASK = """
import os, socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect((sys.argv[1], 5300))
client.settimeout(1)
for size in map(int, sys.argv[2:]):
    data = os.urandom(size)
    for _ in range(240):
        try:
            client.send(data)
            while (heard := client.recv(70_000).split(b" ", 2))[2] != data:
                pass
        except (TimeoutError, ConnectionRefusedError):
            continue
        break
    else:
        sys.exit(f"{size} bytes were not answered")
    assert int(heard[1]) == client.getsockname()[1]
print(heard[0].decode())
"""
pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[Lab]:
    """Return two joined hosts, far from each other, that take what is for one address."""
    settings = {
        "host.memory_mb": 1_536,
        "edge.addresses": [ANYCAST],
        "addresses.v4": [ANYCAST],
    }
    with made(plan.simple("u1", ("fra", "iad"), settings=settings), root) as up:
        cluster.start(up, print)
        yield up


def test_datagrams_reach_a_machine_in_another_region_which_sees_their_client(lab: Lab) -> None:
    near, client = lab.host("fra-1"), lab.node("fra-c1")
    near.godwit("images", "bootstrap")
    folder = near.tree.directory / "home" / "hello"
    shutil.copytree(ROOT / "examples" / "hello", folder)
    launch = ("launch", "--name", "hello", "--org", "personal", "--yes", "--offline")
    near.godwit(*launch, "--region", "fra", "--force-host-build", "--no-ha", cwd=folder)
    (web,) = near.json("machine", "list", "--app", "hello")
    near.godwit("ips", "allocate-v4", "--app", "hello")
    asked = ("machine", "run", web["config"]["image"], "--app", "hello", "--region", "iad")
    service = ("--port", "5300:5353/udp", "--detach")
    near.godwit(*asked, *service, "--", "python3", "-c", ECHO)
    near.exec("ip", "addr", "add", f"{ANYCAST}/32", "dev", "lo")
    router = lab.routers["fra"]
    router.exec("ip", "route", "add", f"{ANYCAST}/32", "via", str(near.addresses.v4))
    # Beyond the mesh's 1,420 bytes they travel in fragments.
    sizes = ("100", "1400", "9000", "60000")
    seen = client.exec("python3", "-c", ASK, ANYCAST, *sizes, timeout_s=600).strip()
    assert seen == str(client.addresses.v4)
