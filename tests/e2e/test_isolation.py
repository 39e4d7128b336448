"""Networks: what a guest reaches and what it does not, between two organizations."""

import ipaddress

import httpx
import pytest

from godwit.testing.platform import HOST_V4, HOST_V6, WORLD_V4, WORLD_V6, Platform, eventually

FETCH = (
    "import sys, urllib.request\n"
    "try:\n    print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())\n"
    "except Exception as e:\n    print('ERROR', e); sys.exit(1)"
)
RESOLVE = (
    "import socket, sys\n"
    "try:\n    print(sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], 80)}))\n"
    "except OSError as e:\n    print('ERROR', e); sys.exit(1)"
)
CONNECT = (
    "import socket, sys\n"
    "try:\n    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print('open')\n"
    "except OSError as e:\n    print('ERROR', e); sys.exit(1)"
)


class Guest:
    """A started machine, to run small programs in."""

    def __init__(self, platform: Platform, app: str) -> None:
        self.platform, self.app = platform, app
        self.machine = platform.deployed(app)
        self.ip = self.machine["private_ip"]

    def python(self, program: str, *argv: str) -> dict:
        return self.platform.exec(self.app, self.machine["id"], "python3", "-c", program, *argv)


@pytest.fixture(scope="module")
def reed(platform: Platform, launched) -> Guest:
    return Guest(platform, "hello-reed")


@pytest.fixture(scope="module")
def marsh(platform: Platform, launched) -> Guest:
    return Guest(platform, "hello-marsh")


def test_addresses_follow_the_layout(reed: Guest, marsh: Guest) -> None:
    words = [ipaddress.IPv6Address(guest.ip).exploded.split(":") for guest in (reed, marsh)]
    assert {w[0] for w in words} == {"fdaa"}
    assert words[0][1:3] != words[1][1:3], "networks differ"
    assert words[0][3:5] == words[1][3:5], "same host"
    assert {w[7] for w in words} == {"0002"}


def test_own_app_is_found_by_name_and_answers(reed: Guest) -> None:
    # Machines that other tests have ended are in no answer a moment later.
    alone = str([reed.ip])
    eventually(lambda: reed.python(RESOLVE, "hello-reed.internal")["stdout"].strip() == alone)
    seen = reed.python(FETCH, f"http://[{reed.ip}]:8080/")
    assert "hello-reed" in seen["stdout"], seen


def test_a_token_of_one_organization_opens_nothing_of_another(reed: Guest) -> None:
    with reed.platform.api as api:
        made = api.post("/x/v1/tokens", json={"name": "theirs", "org_slug": "marsh"})
        assert made.status_code == 201, made.text
        secret = made.json()["token"]
        theirs = {"Authorization": f"Bearer {secret}"}
        assert api.get("/v1/apps/hello-marsh/machines", headers=theirs).status_code == 200
        path = "/v1/apps/hello-reed/machines"
        assert api.get(path, headers=theirs).status_code == 403
        command = f"{path}/{reed.machine['id']}/exec"
        answer = api.post(command, headers=theirs, json={"command": ["id"]})
        assert answer.status_code == 403
    for app, expected in (("hello-marsh", 200), ("hello-reed", 401)):
        tags = f"http://127.0.0.1:5050/v2/{app}/tags/list"
        assert httpx.get(tags).status_code == 401
        granted = httpx.get(
            "http://127.0.0.1:4280/registry/token",
            params={"service": "godwit-registry", "scope": f"repository:{app}:pull"},
            auth=("x", secret),
        )
        bearer = {"Authorization": f"Bearer {granted.json()['token']}"}
        assert httpx.get(tags, headers=bearer).status_code == expected


def test_another_organization_has_no_name_and_no_way(reed: Guest, marsh: Guest) -> None:
    assert reed.python(RESOLVE, "hello-marsh.internal")["exit_code"] == 1
    assert reed.python(CONNECT, marsh.ip, "8080")["exit_code"] == 1
    assert marsh.python(CONNECT, reed.ip, "8080")["exit_code"] == 1


def test_the_world_is_reached_by_nat_on_both_protocols(reed: Guest) -> None:
    assert f"world saw ::ffff:{HOST_V4}" in reed.python(FETCH, f"http://{WORLD_V4}/")["stdout"]
    assert "world saw 2001:db8:1::2" in reed.python(FETCH, f"http://[{WORLD_V6}]/")["stdout"]


def test_a_network_policy_closes_at_once_what_it_does_not_allow(reed: Guest) -> None:
    path = "/v1/apps/hello-reed/network_policies"
    rule = {"action": "allow", "direction": "egress", "ports": [{"protocol": "tcp", "port": 443}]}
    wanted = {"name": "web", "selector": {"machines": [{"id": reed.machine["id"]}]}}

    def reaches_the_world() -> bool:
        return bool(reed.python(CONNECT, WORLD_V4, "80")["exit_code"] == 0)

    assert reaches_the_world()
    with reed.platform.api as api:
        made = api.post(path, json={**wanted, "rules": [rule]})
        assert made.status_code == 200, made.text
        try:
            eventually(lambda: not reaches_the_world())
            # Names, and what the edge brings, are no business of it.
            assert WORLD_V4 in reed.python(RESOLVE, "www.example.org")["stdout"]
            assert reed.platform.get("hello-reed").status_code == 200
        finally:
            gone = api.delete(f"{path}/{made.json()['id']}")
        assert gone.status_code == 204
    eventually(reaches_the_world)


def test_names_outside_are_resolved(reed: Guest) -> None:
    assert WORLD_V4 in reed.python(RESOLVE, "www.example.org")["stdout"]


def test_the_host_is_closed(reed: Guest) -> None:
    """Every port of the platform on every address of the host, all at once; the resolver answers."""
    program = (
        "import concurrent.futures, itertools, socket, sys\n"
        "def opens(place):\n"
        "    try: socket.create_connection(place, 20).close()\n"
        "    except OSError: return None\n"
        "    return '%s %s' % place\n"
        "places = list(itertools.product(sys.argv[1].split(), map(int, sys.argv[2].split())))\n"
        "with concurrent.futures.ThreadPoolExecutor(len(places)) as room:\n"
        "    print(*sorted(filter(None, room.map(opens, places))), sep=chr(10))\n"
    )
    addresses = f"172.16.0.1 {HOST_V4} {HOST_V6} fdaa::3"
    answer = reed.python(program, addresses, "22 53 4222 4280 5050 8080 8090")
    assert answer["stdout"].split("\n") == ["fdaa::3 53", ""], answer


def test_guests_do_not_reach_each_others_ipv4(reed: Guest, marsh: Guest) -> None:
    seen = marsh.platform.exec(marsh.app, marsh.machine["id"], "cat", "/proc/net/fib_trie")
    address = next(line.split()[1] for line in seen["stdout"].splitlines() if "-- 172." in line)
    assert reed.python(CONNECT, address, "8080")["exit_code"] == 1


def test_a_spoofed_source_address_goes_nowhere(reed: Guest, marsh: Guest) -> None:
    """The guest's root takes the other's address and asks the resolver with it."""
    program = (
        "import socket, sys, fcntl, struct, subprocess\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.IPPROTO_IPV6, 75, 1)\n"  # IPV6_FREEBIND is 78, IPV6_TRANSPARENT 75
        "s.bind((sys.argv[1], 0)); s.settimeout(3)\n"
        "q = b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + b'\\x0bhello-marsh\\x08internal\\0' + b'\\0\\x1c\\0\\1'\n"
        "s.sendto(q, ('fdaa::3', 53))\n"
        "try: print('ANSWER', s.recv(512))\n"
        "except TimeoutError: print('nothing')"
    )
    assert "nothing" in reed.python(program, marsh.ip)["stdout"]
    assert reed.python(RESOLVE, "hello-reed.internal")["exit_code"] == 0
