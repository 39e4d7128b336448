"""Who holds a port, as the kernel tells it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.base.errors import Failure
from godwit.base.settings import Listen, Settings
from godwit.host import listeners
from godwit.testing.loopback import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port of 127.0.0.1 that this process listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def free() -> str:
    return f"127.0.0.1:{free_port()}"


def everywhere(**changed: str) -> Settings:
    """Return settings whose ports are all free, but those given."""
    names = set(Listen.model_fields) - {"mesh", "backhaul", "flycast"}
    return Settings(listen=Listen(**{name: free() for name in names} | changed))


def test_who_listens_is_named(taken: int) -> None:
    (holder,) = listeners.of(f"127.0.0.1:{taken}")
    assert holder.pid == os.getpid()
    assert holder.session == os.getsid(0)
    assert holder.name == Path("/proc/self/comm").read_text().strip()


def test_a_wildcard_and_one_address_are_in_each_others_way(taken: int) -> None:
    assert listeners.of(f"0.0.0.0:{taken}")
    assert listeners.of(f"127.0.0.2:{taken}") == ()
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        assert listeners.of(f"127.0.0.2:{other.getsockname()[1]}")


def test_an_address_of_version_6_is_read(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as held:
        held.bind(("::1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert [one.pid for one in listeners.of(f"[::1]:{port}")] == [os.getpid()]
        assert listeners.of(f"127.0.0.1:{port}") == ()


def test_who_is_only_connected_or_bound_holds_nothing(taken: int) -> None:
    with socket.create_connection(("127.0.0.1", taken)) as client:
        assert listeners.of(f"127.0.0.1:{client.getsockname()[1]}") == ()


def test_a_listener_that_cannot_be_looked_into_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    row = "0: 0100007F:13BA 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1"
    (tmp_path / "net" / "tcp").write_text(f"  sl  local_address …\n{row}\n")
    (holder,) = listeners.of("127.0.0.1:5050", proc=tmp_path)
    assert str(holder) == "a process of another namespace"
    assert listeners.of("127.0.0.1:5051", proc=tmp_path) == ()


def test_every_taken_port_is_told_with_its_holder_and_its_setting(taken: int) -> None:
    settings = everywhere(registry=f"127.0.0.1:{taken}")
    with pytest.raises(Failure) as caught:
        listeners.demand_free(settings)
    assert f"127.0.0.1:{taken} for registry" in caught.value.message
    assert f"(pid {os.getpid()})" in caught.value.message
    assert "GODWIT_LISTEN_REGISTRY" in caught.value.hint
    assert "GODWIT_LISTEN_API" not in caught.value.hint


def test_an_address_that_is_not_here_is_told_too() -> None:
    with pytest.raises(Failure, match=r"192\.0\.2\.1:80 for edge \(Cannot assign"):
        listeners.demand_free(everywhere(edge="192.0.2.1:80"))


def test_free_ports_are_free() -> None:
    listeners.demand_free(everywhere())
