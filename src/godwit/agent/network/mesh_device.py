"""The WireGuard interface that leads to the other hosts: the kernel's, or `wireguard-go`.

Where the kernel has no WireGuard the interface is a tun that is there first and stays: with it the
addresses and routes survive the daemon, which is started in a session of its own and outlives the
agent. Whoever comes next finds it by the socket it listens on. Told and asked by `wg`, which
speaks to either. The daemon is the one among Godwit's programs, or else whichever is installed.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from godwit.agent.network import addresses, links, mesh_rules, peers, sysctls
from godwit.base import errors, processes
from godwit.wire.members import mesh_address

DEFAULT_PORT = 51_820
_SOCKETS = Path("/var/run/wireguard")
"""Where `wireguard-go` makes its socket and `wg` looks for it."""
_TIMEOUT_S = 20.0
_DAEMON_S = 10.0
_PEERS_AT_ONCE = 256
_DAEMON = "wireguard-go"

_SYSCTLS = (
    ("ipv6/conf/{device}/disable_ipv6", "0"),
    ("ipv6/conf/{device}/addr_gen_mode", "1"),
    ("ipv6/conf/{device}/accept_dad", "0"),
    ("ipv6/conf/{device}/dad_transmits", "0"),
    ("ipv6/conf/{device}/accept_ra", "0"),
    ("ipv6/conf/{device}/accept_redirects", "0"),
    ("ipv6/conf/{device}/forwarding", "1"),
)


def device_name(host_number: int) -> str:
    """Return the interface's name, which no other host has: tests have many on one machine."""
    return f"mesh{host_number:x}"


@dataclass(frozen=True)
class Config:
    """What the interface is to be.

    Attributes:
        host_number: This host's.
        private_key: The file with its key, as `wg` reads it.
        log: What the daemon says.
        programs: Where Godwit's own programs are.
        port: UDP port on all of the host's addresses.
        mtu: The underlay's less 80, the same on all hosts.
    """

    host_number: int
    private_key: Path
    log: Path
    programs: Path
    port: int = DEFAULT_PORT
    mtu: int = 1420


class MeshDevice:
    """This host's interface into the mesh."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.name = device_name(config.host_number)

    async def ensure(self) -> None:
        """Ensure the interface with its addresses and routes, and who carries its packets.

        Raises:
            ProgramFailed: `ip`, `wg` or the daemon cannot do it.
            Failure: The daemon is not installed, or does not begin.
        """
        if not self.exists():
            await self._make()
        if await self._has_daemon() and not _answers(self.name):
            await self._start_daemon()
        sysctls.set_all((name.format(device=self.name), value) for name, value in _SYSCTLS)
        await _ip(self._commands())

    def exists(self) -> bool:
        """Tell whether the interface is there."""
        return _exists(self.name)

    async def look(self) -> peers.Device:
        """Return what the device says."""
        shown = await processes.run(["wg", "show", self.name, "dump"], timeout_s=_TIMEOUT_S)
        return peers.parse(shown.stdout.decode())

    async def tell_key(self) -> None:
        """Have it use its private key and port, and mark what it sends."""
        words = ["private-key", str(self.config.private_key), "fwmark", hex(mesh_rules.MARK)]
        await self._set([*words, "listen-port", str(self.config.port)])

    async def tell(self, changes: Iterable[peers.Change]) -> None:
        """Change its peers."""
        told = list(changes)
        for begin in range(0, len(told), _PEERS_AT_ONCE):
            some = told[begin : begin + _PEERS_AT_ONCE]
            await self._set([word for change in some for word in change.arguments])

    async def greet(self, keys: Iterable[str]) -> None:
        """Have a packet go to each peer now: one that begins to be kept alive gets one."""
        greeted = list(keys)
        for seconds in (0, peers.KEEPALIVE_S):
            for begin in range(0, len(greeted), _PEERS_AT_ONCE):
                some = greeted[begin : begin + _PEERS_AT_ONCE]
                words = (["peer", key, "persistent-keepalive", str(seconds)] for key in some)
                await self._set([word for each in words for word in each])

    async def ended(self) -> None:
        """Return when the daemon has ended; never where the kernel carries the packets."""
        if not await self._has_daemon():
            await asyncio.get_running_loop().create_future()
        connection = _connect(self.name)
        if connection is None:
            return
        with contextlib.closing(connection):
            pid = _peer_pid(connection)
        await _exit_of(pid)

    async def remove(self) -> None:
        """Ensure daemon and interface are gone."""
        await remove(self.name)

    async def _make(self) -> None:
        """Make the interface, the kernel's own if it has WireGuard."""
        made = await processes.run(
            ["ip", "link", "add", "dev", self.name, "type", "wireguard"],
            timeout_s=_TIMEOUT_S,
            check=False,
        )
        if made.exit_code != 0:
            await _ip([f"tuntap add dev {self.name} mode tun"])

    async def _has_daemon(self) -> bool:
        """Tell whether the interface is carried by a daemon, not by the kernel."""
        shown = await processes.run(
            ["ip", "-d", "link", "show", "dev", self.name], timeout_s=_TIMEOUT_S
        )
        words = (line.split()[:1] for line in shown.stdout.decode().splitlines())
        return ["wireguard"] not in words

    async def _start_daemon(self) -> None:
        installed = os.environ.get("PATH", os.defpath)
        program = shutil.which(_DAEMON, path=f"{self.config.programs}{os.pathsep}{installed}")
        if program is None:
            raise errors.Failure(
                "failed_precondition",
                f"this kernel has no WireGuard, and {_DAEMON} is not installed",
                hint=f"apt-get install {_DAEMON}",
            )
        environment = {"PATH": installed, "LOG_LEVEL": "error"}
        with self.config.log.open("ab") as log:
            processes.detach(
                [program, "-f", self.name],
                stderr=log.fileno(),
                descriptors={},
                env=environment,
            )
        try:
            async with asyncio.timeout(_DAEMON_S):
                while not _answers(self.name):
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            raise errors.Failure(
                "unavailable",
                f"{_DAEMON} does not answer for {self.name}",
                hint=f"its log: {self.config.log}",
            ) from error

    def _commands(self) -> list[str]:
        own = mesh_address(self.config.host_number)
        ours = f"proto {links.ROUTE_PROTOCOL}"
        return [
            f"link set dev {self.name} mtu {self.config.mtu} up",
            f"addr replace {own}/128 dev {self.name} nodad",
            f"route replace {addresses.HOSTS} dev {self.name} {ours} src {own}",
            f"route replace {addresses.BETWEEN_HOSTS} dev {self.name} {ours} src {own}",
        ]

    async def _set(self, words: list[str]) -> None:
        await processes.run(["wg", "set", self.name, *words], timeout_s=_TIMEOUT_S)


async def remove(device: str) -> None:
    """Ensure an interface of this name and its daemon are gone."""
    connection = _connect(device)
    if connection is not None:
        with contextlib.closing(connection):
            pid = _peer_pid(connection)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(_DAEMON_S):
            await _exit_of(pid)
    (_SOCKETS / f"{device}.sock").unlink(missing_ok=True)
    if _exists(device):
        await _ip([f"link delete dev {device}"])


def _exists(device: str) -> bool:
    return any(name == device for _, name in socket.if_nameindex())


def _answers(device: str) -> bool:
    connection = _connect(device)
    if connection is not None:
        connection.close()
    return connection is not None


def _connect(device: str) -> socket.socket | None:
    """Return a connection to an interface's daemon, if there is one that answers."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(_SOCKETS / f"{device}.sock"))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _peer_pid(connection: socket.socket) -> int:
    """Return who listens at the other end (SO_PEERCRED: unix(7)).

    Raises:
        Failure: It is in a space of processes that cannot be seen from here.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, _, _ = struct.unpack("3i", credentials)
    if pid == 0:
        # To the kernel 0 means all of one's own group of processes.
        raise errors.Failure(
            "failed_precondition", "a process of another space of processes carries the mesh"
        )
    return int(pid)


async def _exit_of(pid: int) -> None:
    """Return when a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _ip(commands: Iterable[str]) -> None:
    batch = "\n".join(commands) + "\n"
    await processes.run(["ip", "-batch", "-"], stdin=batch.encode(), timeout_s=_TIMEOUT_S)
