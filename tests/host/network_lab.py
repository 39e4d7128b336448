"""Namespaces, an outside world, and guests made of raw frames, for tests of the host's network.

Every test body runs in a thread that has unshared its network namespace, so nothing here touches
the machine's own network and nothing is left behind. A socket belongs to the namespace of the
thread that made it, so the world is a thread that makes sockets.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import functools
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from godwit.agent import slots
from godwit.base import processes

CLONE_NEWNET = 0x40000000
_HOP_BY_HOP, _ICMPV6 = 0, 58
_SIOCGIFFLAGS = 0x8913
_IFF_RUNNING = 0x40
_libc = ctypes.CDLL(None, use_errno=True)

WORLD_V4, WORLD_V6 = "203.0.113.1", "2001:db8:1::1"
HOST_V4, HOST_V6 = "203.0.113.2", "2001:db8:1::2"
GATEWAY_V4, GATEWAY_V6, RESOLVER = "172.16.0.1", "fe80::1", "fdaa::3"
QUIET_S = 0.25
"""How long nothing must arrive for a packet to count as dropped."""
PATIENCE_S = 60.0
"""How long something that must arrive may take: it arrives, or the test fails."""


def unshare_network() -> None:
    """Give the calling thread a network namespace of its own."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def own_namespace(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Turn an async test into one that runs in a namespace of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        done: Future[None] = Future()

        def body() -> None:
            try:
                unshare_network()
                asyncio.run(test(*args, **kwargs))
                done.set_result(None)
            except BaseException as error:  # noqa: BLE001 - carried to pytest's thread
                done.set_exception(error)

        threading.Thread(target=body, name=test.__name__, daemon=True).start()
        done.result()

    return run


async def ip(*lines: str) -> None:
    """Run lines of `ip -batch` here."""
    await processes.run(
        ["ip", "-batch", "-"], stdin="\n".join(lines).encode(), timeout_s=PATIENCE_S
    )


async def output(*argv: str) -> str:
    """Return what a program prints here, whatever its exit code."""
    finished = await processes.run(list(argv), timeout_s=PATIENCE_S, check=False)
    return finished.stdout.decode()


async def running(interface: str) -> None:
    """Return once the kernel says that an interface has a carrier."""
    request = struct.pack("16sH22x", interface.encode(), 0)
    async with asyncio.timeout(PATIENCE_S):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            while True:
                reply = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
                if struct.unpack_from("H", reply, 16)[0] & _IFF_RUNNING:
                    return
                await asyncio.sleep(0.005)


class World:
    """Everything beyond the host's uplink `up0`: a namespace with one address of each family."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "world", initializer=unshare_network)

    async def connect(self) -> None:
        """Lay the cable between this namespace and the world."""
        namespace = self._thread.submit(os.open, "/proc/thread-self/ns/net", os.O_RDONLY).result()
        try:
            await ip(
                "link set lo up",
                "link add up0 type veth peer name world0",
                f"link set world0 netns /proc/{os.getpid()}/fd/{namespace}",
                f"addr add {HOST_V4}/24 dev up0",
                f"addr add {HOST_V6}/64 dev up0 nodad",
                "link set up0 addrgenmode none",
                "link set up0 up",
                f"route add default via {WORLD_V4}",
                f"route add default via {WORLD_V6}",
            )
        finally:
            os.close(namespace)
        self.run(
            "link set lo up",
            "link set world0 up",
            f"addr add {WORLD_V4}/24 dev world0",
            f"addr add {WORLD_V6}/64 dev world0 nodad",
            f"route add 172.16.0.0/12 via {HOST_V4}",
            f"route add fdaa::/16 via {HOST_V6}",
        )
        await running("up0")

    def run(self, *lines: str) -> None:
        """Run lines of `ip -batch` in the world."""
        self._thread.submit(asyncio.run, ip(*lines)).result()

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """Return a datagram socket bound in the world."""
        return self._thread.submit(udp, address, port).result()

    def tcp(self, address: str, port: int) -> socket.socket:
        """Return a stream socket that listens in the world."""
        made = self._thread.submit(
            socket.create_server, (address, port), family=family(address)
        ).result()
        made.settimeout(PATIENCE_S)
        return made

    def close(self) -> None:
        """End the world."""
        self._thread.shutdown()


@contextlib.asynccontextmanager
async def world():  # type: ignore[no-untyped-def]
    """Connect this namespace to a world for the length of the context."""
    made = World()
    try:
        await made.connect()
        yield made
    finally:
        made.close()


def family(address: str) -> socket.AddressFamily:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def udp(address: str, port: int = 0) -> socket.socket:
    """Return a datagram socket bound in this thread's namespace."""
    made = socket.socket(family(address), socket.SOCK_DGRAM)
    made.bind((address, port))
    made.settimeout(PATIENCE_S)
    return made


def silent(made: socket.socket) -> bool:
    """Tell whether nothing arrives on a socket for a while."""
    return not select.select([made], [], [], QUIET_S)[0]


# ---------------------------------------------------------------- frames


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        return ends + struct.pack("!II", length, protocol)
    return ends + struct.pack("!BBH", 0, protocol, length)


def packet(source: str, destination: str, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """Return an IP packet of the family of its addresses."""
    ends = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + ends + payload
    length = 20 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 1, 0, hops, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp_packet(source: str, sport: int, destination: str, dport: int, data: bytes) -> bytes:
    """Return a UDP datagram in its IP packet."""
    length = 8 + len(data)
    head = struct.pack("!HHHH", sport, dport, length, 0)
    total = checksum(_pseudo(source, destination, 17, length) + head + data) or 0xFFFF
    datagram = struct.pack("!HHHH", sport, dport, length, total) + data
    return packet(source, destination, 17, datagram)


def tcp_packet(source: str, sport: int, destination: str, dport: int, flags: int) -> bytes:
    """Return a TCP segment without data in its IP packet."""
    head = struct.pack("!HHIIBBHHH", sport, dport, 1000, 0, 5 << 4, flags, 64_000, 0, 0)
    total = checksum(_pseudo(source, destination, 6, len(head)) + head)
    return packet(source, destination, 6, head[:16] + struct.pack("!H", total) + head[18:])


def icmp(source: str, destination: str, kind: int, body: bytes, code: int = 0) -> bytes:
    """Return an ICMP or ICMPv6 message in its IP packet; neighbour discovery's hop limit."""
    head = struct.pack("!BBH", kind, code, 0)
    if ":" in source:
        pseudo = _pseudo(source, destination, 58, 4 + len(body))
        total = checksum(pseudo + head + body)
        return packet(source, destination, 58, head[:2] + struct.pack("!H", total) + body, 255)
    total = checksum(head + body)
    return packet(source, destination, 1, head[:2] + struct.pack("!H", total) + body)


def echo(source: str, destination: str) -> bytes:
    """Return a ping."""
    kind = 128 if ":" in source else 8
    return icmp(source, destination, kind, struct.pack("!HH", 7, 1) + b"godwit")


def neighbour_solicitation(source: str, target: str, mac: str) -> bytes:
    """Return a question for the hardware address of `target`."""
    destination = IPv6Address(
        int(IPv6Address("ff02::1:ff00:0")) | (int(IPv6Address(target)) & 0xFFFFFF)
    )
    option = b"\x01\x01" + bytes.fromhex(mac.replace(":", ""))
    return icmp(source, str(destination), 135, bytes(4) + IPv6Address(target).packed + option)


@dataclass(frozen=True)
class Heard:
    """A packet that reached a guest."""

    source: str
    destination: str
    protocol: int
    payload: bytes

    @property
    def ports(self) -> tuple[int, int]:
        """Return source and destination port."""
        pair = struct.unpack_from("!HH", self.payload)
        return pair[0], pair[1]

    @property
    def data(self) -> bytes:
        """Return a datagram's content."""
        return self.payload[8:]


def parse(frame: bytes) -> Heard | None:
    """Return the IP packet within an Ethernet frame."""
    kind, body = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        source, destination = ip_address(body[12:16]), ip_address(body[16:20])
        return Heard(str(source), str(destination), body[9], body[(body[0] & 15) * 4 :])
    if kind == b"\x86\xdd":
        source, destination = ip_address(body[8:24]), ip_address(body[24:40])
        return Heard(str(source), str(destination), body[6], body[40:])
    return None


class FakeGuest:
    """The guest's end of a tap, in the hands of somebody who may write anything."""

    _HEADER = bytes(10)
    """The virtio-net header that TAP_FLAGS ask for, without offloads."""

    def __init__(self, slot: int) -> None:
        self.mac = slots.guest_mac(slot)
        self._name = slots.tap_name(slot)
        self._tap = slots.open_tap(self._name)

    async def attached(self) -> None:
        """Return once the kernel has noticed that somebody holds the tap."""
        await running(self._name)

    def close(self) -> None:
        """Let go of the tap."""
        os.close(self._tap)

    def send_frame(self, kind: int, body: bytes, *, mac: str | None = None) -> None:
        """Send an Ethernet frame to the gateway."""
        ends = slots.gateway_mac() + ":" + (mac or self.mac)
        head = bytes.fromhex(ends.replace(":", ""))
        os.write(self._tap, self._HEADER + head + struct.pack("!H", kind) + body)

    def send(self, body: bytes) -> None:
        """Send an IP packet."""
        self.send_frame(0x86DD if body[0] >> 4 == 6 else 0x0800, body)

    def frames(self, seconds: float) -> Iterator[bytes]:
        """Yield what arrives until nothing more has come for that long."""
        while select.select([self._tap], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                yield os.read(self._tap, 70_000)[len(self._HEADER) :]

    def hear(self, wanted: Callable[[Heard], bool], seconds: float = PATIENCE_S) -> Heard | None:
        """Return the first packet that is wanted, `None` when the time is over."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._tap], [], [], left)[0]:
                return None
            with contextlib.suppress(BlockingIOError):
                heard = parse(os.read(self._tap, 70_000)[len(self._HEADER) :])
                if heard is not None and wanted(heard):
                    return heard
        return None

    def hears_udp(self, data: bytes, seconds: float = QUIET_S) -> bool:
        """Tell whether a datagram with that content arrives."""
        return self.hear(lambda h: h.protocol == 17 and h.data == data, seconds) is not None

    def asks_arp(self, sender: str, target: str) -> bool:
        """Tell whether an ARP question is answered."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        ends = mac + ip_address(sender).packed + bytes(6) + ip_address(target).packed
        self.send_frame(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + ends)
        return any(frame[12:14] == b"\x08\x06" for frame in self.frames(QUIET_S))


def silent_guest(guest: FakeGuest) -> bool:
    """Tell whether nothing but the host's own discovery and group reports reaches a guest for a while."""
    heard = (parse(frame) for frame in guest.frames(QUIET_S))
    return all(h is None or h.protocol in (_HOP_BY_HOP, _ICMPV6) for h in heard)


def random_link_local() -> str:
    """Return an address no tap has."""
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + secrets.token_bytes(8)))


async def snapshot(*, parameters: tuple[str, ...] = ()) -> dict[str, str]:
    """Return all that Godwit could have changed in this namespace's network, once it rests.

    The kernel adds and removes an IPv6 address's own routes a moment after the address.
    """
    async with asyncio.timeout(PATIENCE_S):
        seen = await _look(parameters)
        while (again := await _look(parameters)) != seen:
            seen = again
            await asyncio.sleep(0.05)
    return seen


async def becomes(before: dict[str, str], *, parameters: tuple[str, ...] = ()) -> None:
    """Wait until all of it is as it was; say what is not when it stays so."""
    end = time.monotonic() + PATIENCE_S
    while (seen := await _look(parameters)) != before:
        changed = {name: seen[name] for name in seen if seen[name] != before[name]}
        assert time.monotonic() < end, changed
        await asyncio.sleep(0.05)


async def _look(parameters: tuple[str, ...]) -> dict[str, str]:
    seen = {
        "links": await output("ip", "-br", "link"),
        "addresses": await output("ip", "-br", "addr"),
        "routes": await output("ip", "route", "show", "table", "all"),
        "routes6": await output("ip", "-6", "route", "show", "table", "all"),
        "neighbours": await output("ip", "neigh"),
        "ruleset": await output("nft", "list", "ruleset"),
        "flows": await output("conntrack", "-L"),
    }
    for name in ("routes", "routes6", "neighbours"):
        seen[name] = "\n".join(sorted(seen[name].splitlines()))
    for name in parameters:
        seen[name] = (Path("/proc/sys/net") / name).read_text()
    return seen
