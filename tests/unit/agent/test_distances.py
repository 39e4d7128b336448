"""How far others are, by the edge's word: told to DNS, and beside what WireGuard says."""

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from godwit.agent.distances import Distances
from godwit.agent.mesh_desk import MeshDesk
from godwit.agent.network.mesh import Report
from godwit.base import errors, processes
from godwit.base.principal import Principal

SAID = {
    "hosts": {
        "b2c3d4e5": {"micros": 45_000, "silent": False},
        "c3d4e5f6": {"micros": 9_000, "silent": True},
        "d4e5f6a7": {"micros": 0, "silent": False},
    },
    "regions": {"iad": 45_000, "nrt": 150_000},
}
OPERATOR = Principal(subject="user:op", org_ids=None, scopes=frozenset({"hosts:read"}))
TENANT = Principal(subject="user:a", org_ids=frozenset({"o"}), scopes=frozenset({"hosts:read"}))


class Edge:
    """A status page."""

    def __init__(self) -> None:
        self.said: object = SAID
        edge = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(edge.said).encode()
                self.send_response(200 if self.path == "/distances" else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.at = f"127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()


async def test_what_the_edge_measured_is_told_and_known() -> None:
    edge = Edge()
    told: list[tuple[Mapping[str, int], Mapping[str, int]]] = []
    known = Distances(edge.at, lambda hosts, regions: told.append((hosts, regions)))
    await known.look()
    # One that does not answer is farther than any other, and how far one is that never did is open.
    assert told == [({"b2c3d4e5": 45_000, "c3d4e5f6": 2**32 - 1}, SAID["regions"])]
    assert [known.of(host) for host in ("b2c3d4e5", "c3d4e5f6", "e5f6a7b8")] == [
        45_000,
        None,
        None,
    ]
    # What it says that cannot be read, and that it is away, changes nothing.
    edge.said = {"hosts": []}
    await known.look()
    edge.server.shutdown()
    edge.server.server_close()
    await known.look()
    assert (len(told), known.of("b2c3d4e5")) == (1, 45_000)


async def test_the_operator_is_told_how_every_host_is_reached() -> None:
    async def ask() -> tuple[Report, ...]:
        return (Report(65_538, "b2c3d4e5", "k", "192.0.2.1:51820", 1_700, 10, 20, silent=False),)

    desk = MeshDesk(ask, {"b2c3d4e5": 45_000}.get)
    (peer,) = (await desk.report(OPERATOR, {})).peers
    assert (peer.host_id, peer.host_number, peer.rtt_us) == ("b2c3d4e5", 65_538, 45_000)
    assert (peer.endpoint, peer.handshake_s) == ("192.0.2.1:51820", 1_700)
    assert (peer.received, peer.sent, peer.silent) == (10, 20, False)
    with pytest.raises(errors.Failure, match="only the operator"):
        await desk.report(TENANT, {})


async def test_a_device_that_does_not_answer_is_said() -> None:
    async def ask() -> tuple[Report, ...]:
        raise processes.ProgramFailed(["wg", "show"], "exit 1", "No such device")

    with pytest.raises(errors.Failure, match="WireGuard does not say how it is") as caught:
        await MeshDesk(ask, {}.get).report(OPERATOR, {})
    assert caught.value.code == "unavailable"
