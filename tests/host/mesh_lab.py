"""Hosts as namespaces, joined by a switch that can be told to cut them off; for tests of the mesh.

Every host is a thread with a network namespace and an event loop of its own; what runs there is
the agent's real network on real taps, nftables and WireGuard.
"""

import asyncio
import base64
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.agent import ports, slots
from godwit.agent.network import links, mesh_device, peers, rules
from godwit.agent.network.addresses import PrivateAddress
from godwit.agent.network.host_network import HostNetwork
from godwit.agent.network.mesh import Mesh, rules_of
from godwit.agent.network.mesh_keys import MeshKeys
from godwit.base import clock, settings, tasks
from tests.host import network_lab as lab

T = TypeVar("T")
_FIRST_NUMBER = 3_000_001 + 1_000 * secrets.randbelow(10_000)
"""Other tests on this machine have hosts of other numbers: `/run/wireguard` is one for all."""
_EVERY_S = 0.005
"""Between two datagrams of a stream."""
OUTSIDER = "2001:db8:5::99"
"""Somebody on the switch who is no host."""


def until(met: Callable[[], bool], deadline_s: float = lab.PATIENCE_S) -> None:
    """Return once something is so."""
    end = time.monotonic() + deadline_s
    while not met():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


def device_config(host_number: int, folder: Path) -> mesh_device.Config:
    """Return what a host's interface is to be, whose key lies in its folder."""
    programs = settings.from_process().paths.programs
    return mesh_device.Config(host_number, folder / "mesh.key", folder / "wg.log", programs)


class Namespace:
    """A thread with a network namespace and an event loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        began: Future[int] = Future()

        def live() -> None:
            try:
                lab.unshare_network()
                began.set_result(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
            except BaseException as error:  # noqa: BLE001 - carried to pytest's thread
                began.set_exception(error)
                return
            self._loop.run_forever()

        self._thread = threading.Thread(target=live, name=name, daemon=True)
        self._thread.start()
        self.descriptor = began.result()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something here to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * lab.PATIENCE_S)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something here."""

        async def called() -> T:
            return function(*args)

        return self.do(called())

    def ip(self, *lines: str) -> None:
        """Run lines of `ip -batch` here."""
        self.do(lab.ip(*lines))

    def output(self, *argv: str) -> str:
        """Return what a program prints here."""
        return self.do(lab.output(*argv))

    def close(self) -> None:
        """End the thread; the namespace ends with what else is in it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        os.close(self.descriptor)


class Host(Namespace):
    """A host of the mesh."""

    def __init__(self, index: int, folder: Path) -> None:
        super().__init__(f"host{index}")
        self.index = index
        self.number = _FIRST_NUMBER + index
        self.address = f"192.0.2.{index}"
        self.folder = folder / f"host{index}"
        self.folder.mkdir()
        key = self.folder / "mesh.key"
        key.write_bytes(base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()) + b"\n")
        self.keys = MeshKeys(key)
        self.guests: list[lab.FakeGuest] = []
        self.known: tuple[peers.Peer, ...] = ()

    def start(self, **policy: Any) -> None:
        """Start the agent's network, which knows what the last one knew."""
        self.do(self._start(rules.Policy(**policy)))

    async def _start(self, policy: rules.Policy) -> None:
        known = rules_of(self.number, self.known)
        self.network = HostNetwork(self.number, run_dir=self.folder, policy=policy, mesh=known)
        await self.network.start()
        self.device = mesh_device.MeshDevice(device_config(self.number, self.folder))
        self.mesh = Mesh(
            self.device,
            self.network.reach,
            clock.SystemClock(),
            remembered_in=self.folder / "mesh.json",
            notice_s=0.5,
        )
        self.mesh.follow(self.known)
        self.tasks = tasks.Tasks("host")
        self.tasks.spawn(self.mesh.run(), name="mesh")

    def end_agent(self) -> None:
        """End all that an agent's death ends."""
        self.do(self.tasks.cancel())

    def peer(self, **changed: Any) -> peers.Peer:
        """Return the record by which the others know this host."""
        return peers.Peer(
            self.number,
            changed.get("public_key", self.keys.public),
            changed.get("next_key", ""),
            changed.get("endpoints", (f"{self.address}:51820",)),
        )

    def follow(self, *members: peers.Peer) -> None:
        """Have it know these hosts, and only these."""
        self.known = members
        self.call(self.mesh.follow, members)

    def settled(self) -> None:
        """Return once it has done all that it was told."""
        self.do(self.mesh.settle())

    def guest(self, slot: int, network: int = 1) -> lab.FakeGuest:
        """Return the guest's end of a machine's tap."""
        plumbing = ports.Plumbing(f"m{slot}", f"org{network}", f"net{network}", network, slot)
        self.do(self.network.plumb(plumbing))
        made = self.call(lab.FakeGuest, slot)
        self.guests.append(made)
        self.do(made.attached())
        return made

    def six(self, slot: int, network: int = 1) -> str:
        """Return a machine's address."""
        plumbing = ports.Plumbing(f"m{slot}", f"org{network}", f"net{network}", network, slot)
        return self.network.private_ip(plumbing)

    def counted(self, name: str) -> int:
        """Return how many packets a counter of the policy has seen."""
        text = self.output("nft", "list", "counter", "inet", "godwit", name)
        return int(text.split("packets")[1].split()[0])

    def look(self) -> peers.Device:
        """Return what the device says."""
        return self.do(self.device.look())

    def daemon(self) -> int:
        """Return the pid of what carries its packets, 0 while nothing does."""
        return daemon_of(self.device)

    def stop(self) -> None:
        """Take everything down."""
        for guest in self.guests:
            guest.close()
        if hasattr(self, "network"):
            self.end_agent()
            self.do(self.network.stop())
        self.close()


def daemon_of(device: mesh_device.MeshDevice) -> int:
    """Return the pid of what carries a device's packets, 0 while nothing does."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(f"/var/run/wireguard/{device.name}.sock")
        except OSError:
            return 0
        return mesh_device._peer_pid(connection)


class Internet:
    """Hosts on one switch."""

    def __init__(self, folder: Path, count: int, *, first: int = 1) -> None:
        self._first = first
        self.switch = Namespace("switch")
        self.hosts: list[Host] = []
        self._folder = folder
        self.switch.ip(
            "link add br0 type bridge",
            "link set br0 addrgenmode none",
            f"addr add {OUTSIDER}/64 dev br0 nodad",
            "link set br0 up",
        )
        for _ in range(count):
            self.add()

    def add(self) -> Host:
        """Add one more host, with its cable."""
        host = Host(self._first + len(self.hosts), self._folder)
        cable, own = f"h{host.index}", f"/proc/{os.getpid()}/fd/{host.descriptor}"
        self.switch.ip(
            f"link add {cable} type veth peer name up0 netns {own}",
            f"link set {cable} master br0",
            f"link set {cable} up",
        )
        host.ip(
            "link set lo up",
            "link set up0 addrgenmode none",
            f"addr add {host.address}/24 dev up0",
            f"addr add 2001:db8:5::{host.index}/64 dev up0 nodad",
            "link set up0 up",
        )
        host.do(lab.running("up0"))
        self.hosts.append(host)
        return host

    def join(self, *hosts: Host) -> None:
        """Have hosts know each other; return once each of them does."""
        for host in hosts:
            host.follow(*(each.peer() for each in hosts))
        for host in hosts:
            host.settled()

    def cut(self, host: Host) -> None:
        """Pull a host's cable."""
        self.switch.ip(f"link set h{host.index} nomaster")

    def mend(self, host: Host) -> None:
        """Put it back."""
        self.switch.ip(f"link set h{host.index} master br0")

    def close(self) -> None:
        """End all of it."""
        for host in self.hosts:
            host.stop()
        self.switch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def internet(folder: Path, count: int = 2, **policy: Any) -> Iterator[Internet]:
    """Return hosts with their networks up, strangers to each other."""
    with Internet(folder, count) as made:
        for host in made.hosts:
            host.start(**policy)
        yield made


@dataclass(frozen=True)
class Inhabitant:
    """A namespace behind a host, in the place of a machine: with a kernel's own TCP."""

    inside: Namespace
    address: str


def inhabitant(host: Host, slot: int = 2, network: int = 1) -> Inhabitant:
    """Put one there, by a veth instead of a tap; the host's next agent adopts it."""
    private = PrivateAddress(network, host.number, slot)
    inside, tap = Namespace("inhabitant"), slots.tap_name(slot)
    where = f"/proc/{os.getpid()}/fd/{inside.descriptor}"
    host.ip(f"link add {tap} type veth peer name eth0 netns {where}")
    host.ip(*links.tap_commands(tap, private, 1420))
    inside.ip(
        "link set lo up",
        f"link set dev eth0 address {slots.guest_mac(slot)} mtu 1420 up",
        f"addr add {private}/128 dev eth0 nodad",
        "route add default via fe80::1 dev eth0",
    )
    return Inhabitant(inside, str(private))


def _datagram(heard: lab.Heard) -> bool:
    return heard.protocol == 17


@dataclass(frozen=True)
class Way:
    """From a machine on one host to one on another."""

    sender: Host
    guest: lab.FakeGuest
    receiver: Host
    heard_by: lab.FakeGuest
    slot: int = 2
    network: int = 1

    def send(self, data: bytes) -> None:
        """Send a datagram."""
        source = self.sender.six(self.slot, self.network)
        target = self.receiver.six(self.slot, self.network)
        self.guest.send(lab.udp_packet(source, 4000, target, 9000, data))

    def opened(self, deadline_s: float = lab.PATIENCE_S) -> float:
        """Return after how many seconds datagrams arrive; they are sent again until they do.

        Those that waited on the way for a handshake have arrived, too, when it returns: the last
        one that was sent has.
        """
        began, this_time, sent = time.monotonic(), os.urandom(8).hex().encode(), 0
        opened_s: float | None = None
        while (spent := time.monotonic() - began) < deadline_s:
            sent += 1
            newest = this_time + b" %d" % sent
            self.send(newest)
            patience_s = 0.02 if opened_s is None else 1.0
            while (heard := self.heard_by.hear(_datagram, patience_s)) is not None:
                if not heard.data.startswith(this_time):
                    continue
                opened_s = opened_s or time.monotonic() - began
                if heard.data == newest:
                    return opened_s
        raise AssertionError(f"nothing arrives within {spent:.0f} s")

    def passes(self, data: bytes, seconds: float = lab.PATIENCE_S) -> bool:
        """Tell whether one datagram arrives."""
        self.send(data)
        return self.heard_by.hears_udp(data, seconds)


@contextlib.contextmanager
def two_hosts(folder: Path, **policy: Any) -> Iterator[tuple[Internet, Way]]:
    """Return two hosts in a mesh with a machine of the same network on each, and the way between."""
    with internet(folder, 2, **policy) as net:
        one, two = net.hosts
        way = Way(one, one.guest(2), two, two.guest(2))
        net.join(one, two)
        way.opened()
        yield net, way


class Stream:
    """Datagrams that are sent one after the other along a way, for as long as its context lasts.

    Attributes:
        gaps: For how many seconds nothing arrived, each time.
    """

    def __init__(self, way: Way) -> None:
        self.gaps: list[float] = []
        self._way = way
        self._sent = self._heard = 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._send, self._hear)
        ]

    def flows(self) -> None:
        """Return once something has arrived that was sent after this was asked."""
        wanted = self._sent + 1
        until(lambda: self._heard >= wanted)

    def _send(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._way.send(b"%d" % (self._sent + 1))
            self._sent += 1

    def _hear(self) -> None:
        last = time.monotonic()
        while not self._over.is_set():
            heard = self._way.heard_by.hear(_numbered, 0.05)
            if heard is not None:
                self._heard = int(heard.data)
                self.gaps.append((now := time.monotonic()) - last)
                last = now

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def _numbered(heard: lab.Heard) -> bool:
    return heard.protocol == 17 and heard.data.isdigit()
