"""A real machine talks to what is behind another host: its own network stack, QEMU, tap, mesh.

What frames by hand cannot show: a guest hands large segments over whose checksums are computed by
half, and the mesh rewrites their addresses before anybody completes them.
"""

import asyncio
import base64
import hashlib
import os
import socket
from pathlib import Path

import pytest

from godwit.agent.judging import Judgement
from godwit.agent.network import mesh_device, peers
from godwit.agent.network.mesh import Mesh
from godwit.agent.network.mesh_keys import MeshKeys
from godwit.base import clock
from tests.host import mesh_lab
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.test_hostile_guest import pings, succeeds

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
PORT = 9000
MUCH = 3_000_000


class Far:
    """A host beside the one with the machine, and what lives behind it."""

    def __init__(self, folder: Path) -> None:
        self.net = mesh_lab.Internet(folder, 1, first=2)
        (self.host,) = self.net.hosts
        self.host.start()
        self.friend = mesh_lab.inhabitant(self.host, 5, 1)
        self.stranger = mesh_lab.inhabitant(self.host, 6, 2)
        self.host.end_agent()
        self.host.start()

    def listening(self, behind: mesh_lab.Inhabitant) -> socket.socket:
        """Return a server there."""
        made = behind.inside.call(
            lambda: socket.create_server((behind.address, PORT), family=socket.AF_INET6)
        )
        made.settimeout(240)
        return made

    def close(self) -> None:
        self.friend.inside.close()
        self.stranger.inside.close()
        self.net.close()


async def joined(here: vm_lab.Host, far: Far) -> Mesh:
    """Lay the cable from this namespace to the far host's switch; have both know each other."""
    own = f"/proc/{os.getpid()}/fd/{far.net.switch.descriptor}"
    await lab.ip(
        f"link add cable0 type veth peer name h1 netns {own}",
        "addr add 192.0.2.1/24 dev cable0",
        "link set cable0 up",
    )
    far.net.switch.ip("link set h1 master br0", "link set h1 up")
    await lab.running("cable0")
    folder = here.places.run_dir
    key = folder / "mesh.key"
    key.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    mesh = Mesh(
        mesh_device.MeshDevice(mesh_lab.device_config(vm_lab.HOST_NUMBER, folder)),
        here.network.reach,
        clock.SystemClock(),
        remembered_in=folder / "mesh.json",
    )
    public, where = MeshKeys(key).public, ("192.0.2.1:51820",)
    members = (peers.Peer(vm_lab.HOST_NUMBER, public, endpoints=where), far.host.peer())
    far.host.follow(*members)
    far.host.settled()
    mesh.follow(members)
    await mesh.settle()
    return mesh


def given(server: socket.socket, data: bytes) -> None:
    """Give everything to whoever connects."""
    connection, _ = server.accept()
    with connection:
        connection.sendall(data)


def taken(server: socket.socket) -> bytes:
    """Return everything that whoever connects gives."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(240)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


async def exchanged_much(machine: vm_lab.Machine, far: Far) -> None:
    """Have a machine get much from its friend and give much to it, whole."""
    friend = far.friend.address
    with far.listening(far.friend) as server:
        data = os.urandom(MUCH)
        giving = asyncio.to_thread(given, server, data)
        fetched = machine.run(f"busybox nc {friend} {PORT} </dev/null | sha256sum")
        _, answer = await asyncio.gather(giving, fetched)
        assert answer.stdout.split()[0] == hashlib.sha256(data).hexdigest()
        sent = machine.run(
            f"head -c {MUCH} /dev/urandom >/tmp/much && sha256sum </tmp/much"
            f" && busybox nc {friend} {PORT} </tmp/much"
        )
        answer, received = await asyncio.gather(sent, asyncio.to_thread(taken, server))
        assert answer.stdout.split()[0] == hashlib.sha256(received).hexdigest()
        assert len(received) == MUCH


@lab.own_namespace
async def test_a_machine_exchanges_much_with_one_behind_another_host(tmp_path):
    far = Far(tmp_path)
    try:
        async with vm_lab.host() as here:
            await joined(here, far)
            machine = here.machine(5, network=1)
            await machine.boot()
            friend, stranger = far.friend.address, far.stranger.address
            # The first may be lost: a handshake that was not heard is tried again after seconds.
            async with asyncio.timeout(240):
                while not await succeeds(machine, pings(friend)):
                    await asyncio.sleep(0.2)
            assert not await succeeds(machine, pings(stranger))
            await exchanged_much(machine, far)
            # The same under a network policy, which takes it other ways.
            allowed = Judgement(ingress=frozenset(), egress=frozenset({("tcp", PORT)}))
            here.network.judge_by(lambda _: allowed)
            await here.network.judge(5)
            assert not await succeeds(machine, pings(friend))
            await exchanged_much(machine, far)
    finally:
        far.close()
