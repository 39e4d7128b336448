"""Services that are no plain HTTP, in real microVMs: raw TCP, TLS, and an upgrade under load."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from godwit.testing import platform as testing
from godwit.testing.platform import Platform, eventually, sh

APP = "hello-reed"
NAME = f"{APP}.godwit.localhost"
OWN = "198.51.100.10"
"""What the session's platform may give to an app."""
RAW, SECURE = 7000, 7443
ECHO = """
import socket, threading
server = socket.create_server(("0.0.0.0", 7000))
def serve(client):
    with client:
        while piece := client.recv(65536):
            client.sendall(b"> " + piece)
        client.sendall(b"over")
while True:
    threading.Thread(target=serve, args=(server.accept()[0],)).start()
"""


@pytest.fixture(scope="module")
def own_address() -> Iterator[str]:
    """Have the app's own address arrive at this host."""
    sh("ip", "addr", "add", f"{OWN}/32", "dev", "lo")
    yield OWN
    sh("ip", "addr", "del", f"{OWN}/32", "dev", "lo")


@pytest.fixture(scope="module")
def root(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that a client trusts."""
    file = tmp_path_factory.mktemp("trust") / "root.pem"
    file.write_text(platform.godwit("host", "authority"))
    return file


@pytest.fixture(scope="module")
def echoing(platform: Platform, launched: dict[str, str], own_address: str) -> Iterator[str]:
    """Run a machine that echoes bytes at two ports; return its app's own address."""
    image = platform.deployed(APP)["config"]["image"]
    services = [
        {
            "protocol": "tcp",
            "internal_port": RAW,
            "ports": [{"port": RAW}, {"port": SECURE, "handlers": ["tls"]}],
        }
    ]
    config: dict[str, Any] = {
        "image": image,
        "init": {"exec": ["python3", "-c", ECHO]},
        "restart": {"policy": "no"},
        "services": services,
    }
    with platform.api as api:
        made = api.post(f"/v1/apps/{APP}/machines", json={"config": config})
        assert made.status_code == 200, made.text
        machine = made.json()["id"]
        platform.wait(APP, machine, "started")
        platform.godwit("ips", "allocate-v4", "--app", APP)
        try:
            eventually(lambda: echoes(own_address))
            yield own_address
        finally:
            platform.godwit("ips", "release", own_address, "--app", APP, "--yes")
            api.delete(f"/v1/apps/{APP}/machines/{machine}", params={"force": "true"})


def echoes(address: str) -> bool:
    """Tell whether the machine answers: its program takes a while to listen."""
    with contextlib.suppress(OSError), connect(address, RAW) as client:
        client.sendall(b"?")
        return client.recv(100) == b"> ?"
    return False


def connect(address: str, port: int) -> socket.socket:
    """Return a connection, once the edge has opened the port."""

    def attempt() -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), timeout=60)
        return None

    connected = eventually(attempt)
    assert connected is not None
    return connected


def test_bytes_reach_a_machine_at_the_apps_own_address(echoing: str) -> None:
    with connect(echoing, RAW) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"> hello"
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read() == b"over"


def test_tls_ends_at_the_edge_and_its_name_says_which_app(echoing: str, root: Path) -> None:
    context = ssl.create_default_context(cafile=str(root))
    for address in (testing.HOST_V4, echoing):
        with (
            connect(address, SECURE) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as client,
        ):
            client.sendall(b"hello")
            assert client.recv(100) == b"> hello"


def https(platform: Platform, root: Path) -> httpx.Response:
    port = (platform.settings.listen.edge_tls or "").rpartition(":")[2]
    context = ssl.create_default_context(cafile=str(root))
    with httpx.Client(verify=context, timeout=60) as client:
        return client.get(
            f"https://127.0.0.1:{port}/", headers={"Host": NAME}, extensions={"sni_hostname": NAME}
        )


def test_an_app_from_source_answers_https(
    platform: Platform, launched: dict[str, str], root: Path
) -> None:
    assert https(platform, root).status_code == 200


def test_an_upgrade_refuses_no_client(platform: Platform, echoing: str, root: Path) -> None:
    stopped = threading.Event()
    bad: list[str] = []
    done: list[None] = []

    def ask() -> None:
        while not stopped.is_set():
            try:
                assert https(platform, root).status_code == 200
                with socket.create_connection((echoing, RAW), timeout=60) as client:
                    client.sendall(b"x")
                    assert client.recv(100) == b"> x"
            except (OSError, httpx.HTTPError, AssertionError) as error:
                bad.append(repr(error))
            done.append(None)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    before = platform.component("edge").pid
    try:
        platform.godwit("upgrade")
        assert platform.component("edge").pid != before
        eventually(lambda: not Path(f"/proc/{before}").exists())
        eventually(lambda: len(done) > 10)
    finally:
        stopped.set()
        for client in clients:
            client.join()
    assert bad == []
