"""The whole way, source to answer, on a host where every port was moved."""

import shutil
import socket
from pathlib import Path

import pytest

from godwit.base import settings
from godwit.host import listeners
from godwit.testing.platform import ROOT, Platform
from tests.moved.conftest import FLYCAST, MOVED


def test_every_port_there_is_was_moved() -> None:
    usual = settings.Listen().model_dump()
    assert set(MOVED) == set(usual) - {"flycast", "mesh", "backhaul"}
    assert not set(MOVED.values()) & set(usual.values())


def test_nothing_listens_where_it_usually_does(platform: Platform) -> None:
    usual = settings.Listen().model_dump() | {"join": "127.0.0.1:4281"}
    for address in (*(usual[name] for name in MOVED), f"[fdaa::3]:{usual['flycast']}"):
        assert listeners.of(address) == (), address
    for address in (*MOVED.values(), f"[fdaa::3]:{FLYCAST}"):
        assert listeners.of(address), address


def test_source_code_becomes_an_answer(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "hello"
    shutil.copytree(ROOT / "examples" / "hello", folder)
    launch = ("launch", "--name", "hello", "--org", "reed", "--yes", "--offline")
    platform.godwit(*launch, "--force-host-build", "--no-ha", cwd=folder)
    status = platform.json("status", "--app", "hello")
    assert status["url"] == "http://hello.godwit.localhost:18080/"
    answer = platform.get("hello")
    assert answer.status_code == 200
    machine = platform.deployed("hello")
    assert machine["config"]["image"].startswith("127.0.0.1:15050/hello:")
    assert platform.exec("hello", machine["id"], "true")["exit_code"] == 0
    logs = platform.godwit("logs", "--app", "hello", "--no-tail")
    assert machine["id"] in logs


def test_the_registry_takes_a_push_and_control_hears_of_it(platform: Platform) -> None:
    with platform.api as api:
        rows = api.get("/x/v1/audit", params={"org_slug": "reed", "limit": 500}).json()["rows"]
    pushes = [row for row in rows if row["action"] == "images.push"]
    assert [row["target"].partition(":")[0] for row in pushes] == ["hello"]
    assert pushes[0]["principal"] == "app:hello"


def test_a_guest_reaches_none_of_the_moved_ports(platform: Platform) -> None:
    machine = platform.deployed("hello")
    code = (
        "import socket,sys\n"
        "for port in map(int, sys.argv[1:]):\n"
        "    try: socket.create_connection(('fdaa::3', port), 3); print('open', port)\n"
        "    except OSError: print('closed', port)\n"
    )
    moved = [*(address.rpartition(":")[2] for address in MOVED.values()), str(FLYCAST)]
    seen = platform.exec("hello", machine["id"], "python3", "-c", code, *moved, timeout=60)
    assert seen["stdout"].splitlines() == [f"closed {port}" for port in moved]


@pytest.mark.parametrize("setting", ["registry", "edge"])
def test_a_second_host_is_told_who_holds_its_port(
    platform: Platform, setting: str, tmp_path: Path
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        other = Platform(
            {
                **platform.environ,
                "GODWIT_INSTANCE": "other",
                "GODWIT_PATHS_DATA": str(tmp_path / "data"),
                "GODWIT_PATHS_RUN": str(tmp_path / "run"),
                f"GODWIT_LISTEN_{setting.upper()}": f"127.0.0.1:{port}",
            },
            tmp_path / "data",
            tmp_path / "run",
        )
        said = other.godwit("up", "-d", expect=3)
    assert f"127.0.0.1:{port} for {setting} (Address already in use, held by " in said
    assert "127.0.0.1:14280 for api" in said
    assert "choose other addresses with GODWIT_LISTEN_" in said
    assert platform.get("hello").status_code == 200
