"""UDP services in a real microVM: the app sees its client's own address, by IPv4 and IPv6."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from godwit.testing import platform as testing
from godwit.testing.platform import Platform, sh

APP = "hello-reed"
OWN_V4, OWN_V6 = "198.51.100.10", "2001:db8:2::10"
"""What the session's platform may give to an app."""
PORT, INSIDE = 5300, 5353
APP_CODE = f"""
import socket, threading
def serve(family):
    host = "fly-global-services"
    address = socket.getaddrinfo(host, {INSIDE}, family, socket.SOCK_DGRAM)[0][4]
    taken = socket.socket(family, socket.SOCK_DGRAM)
    taken.bind(address)
    while True:
        data, client = taken.recvfrom(65536)
        taken.sendto(f"{{client[0]}} {{client[1]}} ".encode() + data, client)
threading.Thread(target=serve, args=(socket.AF_INET6,)).start()
serve(socket.AF_INET)
"""
CLIENT = """
import os, socket, sys
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.connect((address, port))
client.settimeout(1)
data = os.urandom(size)
for _ in range(240):
    try:
        client.send(data)
        heard = client.recv(70_000)
    except (TimeoutError, ConnectionRefusedError):
        continue
    seen, said, rest = heard.split(b" ", 2)
    assert rest == data, (len(rest), len(data))
    own = int(said) == client.getsockname()[1]
    print(seen.decode(), "own" if own else "another")
    break
else:
    sys.exit("nothing was heard")
"""


@pytest.fixture(scope="module")
def serving(platform: Platform, launched: dict[str, str]) -> Iterator[str]:
    """Run a machine with a UDP service; return its id."""
    inside = ("ip", "-n", testing.world_namespace())
    for address in (f"{OWN_V4}/32", f"{OWN_V6}/128"):
        sh("ip", "addr", "add", address, "dev", "lo")
    sh(*inside, "route", "add", f"{OWN_V6}/128", "via", testing.HOST_V6)
    image = platform.deployed(APP)["config"]["image"]
    service = {"protocol": "udp", "internal_port": INSIDE, "ports": [{"port": PORT}]}
    config: dict[str, Any] = {
        "image": image,
        "init": {"exec": ["python3", "-c", APP_CODE]},
        "services": [service | {"autostop": "off", "autostart": True}],
    }
    for kind in ("v4", "v6"):
        platform.godwit("ips", f"allocate-{kind}", "--app", APP)
    platform.godwit("ips", "allocate-v4", "--shared", "--app", APP)
    given = platform.godwit("ips", "list", "--app", APP)
    with platform.api as api:
        made = api.post(f"/v1/apps/{APP}/machines", json={"config": config})
        assert made.status_code == 200, made.text
        machine = made.json()["id"]
        platform.wait(APP, machine, "started")
        try:
            yield machine if OWN_V6 in given else ""
        finally:
            api.delete(f"/v1/apps/{APP}/machines/{machine}", params={"force": "true"})
            for address in (OWN_V4, OWN_V6, testing.HOST_V4):
                platform.godwit("ips", "release", address, "--app", APP, "--yes")
            for address in (f"{OWN_V4}/32", f"{OWN_V6}/128"):
                sh("ip", "addr", "del", address, "dev", "lo")


def ask(address: str, size: int = 100, *, in_world: bool = True) -> str:
    """Return what the app says of its client: its address, and whether the port is its own."""
    inside = ("ip", "netns", "exec", testing.world_namespace()) if in_world else ()
    words = (sys.executable, "-c", CLIENT, address, str(PORT), str(size))
    return sh(*inside, *words, timeout=300).stdout.strip()


@pytest.mark.parametrize(
    ("own", "client"),
    [
        (OWN_V4, testing.WORLD_V4),
        (OWN_V6, testing.WORLD_V6),
        # At the address that apps share the port is this app's.
        (testing.HOST_V4, testing.WORLD_V4),
    ],
)
def test_the_app_sees_its_client(serving: str, own: str, client: str) -> None:
    assert ask(own) == f"{client} own"


@pytest.mark.parametrize("own", [OWN_V4, OWN_V6])
def test_what_no_packet_holds_goes_both_ways(serving: str, own: str) -> None:
    for size in (0, 1_300, 1_420, 1_472, 9_000, 60_000):
        ask(own, size)


def test_a_client_on_the_host_itself_is_answered(serving: str) -> None:
    assert ask(OWN_V4, in_world=False) == "172.16.0.1 another"


@pytest.mark.parametrize("rest", ["stop", "suspend"])
def test_a_machine_at_rest_is_started_for_a_datagram(
    platform: Platform, serving: str, rest: str
) -> None:
    with platform.api as api:
        rested = api.post(f"/v1/apps/{APP}/machines/{serving}/{rest}")
        assert rested.status_code == 200, rested.text
    platform.wait(APP, serving, "stopped" if rest == "stop" else "suspended")
    assert ask(OWN_V4) == f"{testing.WORLD_V4} own"
    platform.wait(APP, serving, "started")


def test_what_a_machine_says_of_its_own_leaves_as_ever(platform: Platform, serving: str) -> None:
    """Only answers to clients are brought back: another port asks the world's resolver."""
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.settimeout(20);"
        "s.sendto(bytes.fromhex('000101000001000000000000076578616d706c6503636f6d0000010001'),"
        f"('{testing.WORLD_V4}', 53)); print(len(s.recv(512)))"
    )
    told = platform.exec(APP, serving, "python3", "-c", code)
    assert int(told["stdout"]) > 12, told
