"""Where an app listens, against where its services expect it."""

from typing import Any

import pytest

from godwit.control.deploys import service, sockets, view
from godwit.testing.deploys import Yard
from godwit.wire.host_rpc import GuestProcess, ListenSocket
from tests.unit.control.deploys.conftest import WEB


def process(*addresses: str, proto: str = "tcp") -> GuestProcess:
    found = tuple(ListenSocket(proto=proto, address=one) for one in addresses)
    return GuestProcess(pid=7, command="node server.js", listen_sockets=found)


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "[::]:8080", "[fdaa::3]:8080"])
def test_who_can_be_reached_is_not_warned_of(address: str) -> None:
    assert sockets.sentence([8080], [process("127.0.0.1:9", address)]) == ""


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:3000"])
def test_who_listens_for_itself_or_elsewhere_is_warned_of(address: str) -> None:
    assert sockets.sentence([8080], [process(address)]) == (
        "does not listen on 0.0.0.0:8080, where its service expects it, and gets no requests: it"
        f" listens on {address} (node server.js)"
    )


def test_datagrams_do_not_count() -> None:
    assert "no port at all" in sockets.sentence([8080], [process("0.0.0.0:8080", proto="udp")])


def told(deploy: service.Deploy) -> list[str]:
    return [one.message for one in view.events(deploy) if one.level == "warning"]


@pytest.mark.parametrize(("port", "warned"), [(80, False), (8080, True)])
async def test_a_deploy_without_checks_looks_at_sockets(
    yard: Yard, port: int, warned: bool
) -> None:
    definition: dict[str, Any] = {"app": "shop", "http_service": {"internal_port": port}}
    done = await yard.deploy(definition, "nginx:1")
    assert done.row.outcome == "complete"
    assert any("does not listen on 0.0.0.0:8080" in one for one in told(done)) == warned


@pytest.mark.parametrize(("looks", "warned"), [(5, False), (1_000, True)])
async def test_an_app_gets_some_time_to_begin_to_listen(
    yard: Yard, looks: int, warned: bool
) -> None:
    yard.host.unready_looks = looks
    definition: dict[str, Any] = {"app": "shop", "http_service": {"internal_port": 80}}
    done = await yard.deploy(definition, "nginx:1")
    assert done.row.outcome == "complete"
    assert any("no port at all" in one for one in told(done)) == warned


async def test_where_checks_fail_the_sockets_are_told(yard: Yard) -> None:
    done = await yard.deploy(WEB, "nginx:sick", wait_timeout_s=20)
    assert any("does not listen on 0.0.0.0:8080" in one for one in told(done))
    assert told(await yard.deploy(WEB, "nginx:1")) == []
