"""Where a build runs: processes and a network of its own, so that RUN steps meet no one else's.

RUN steps see the build's processes alone (a PID namespace with its own /proc) and reach the
outside by NAT through a veth pair. What listens on the host they do not reach, on whichever
address: neither the bus, control and the registry on loopback nor the API on a public one; nor
machines, nor the metadata service of a cloud. A proxy that the operator names for RUN steps is
the one exception: where it is on the host itself, that one port is let through. Where the host
cannot make such a network, they have none, and the build says so.

    netns    bgw<key>-<n>             one per running build; n is held by a lock file
    link     bgw<key>-<n> ── eth0     the host's end, and the one inside
    nftables table inet godwit_bgw<key>-<n>

Everything of a build that was killed is swept by the next one and by `godwit down`. A RUN step is
still root: this is a fence for what is careless, not a wall against what is hostile.
"""

import contextlib
import hashlib
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from godwit.base import processes
from godwit.base.errors import Failure
from godwit.images import locks

_AT_ONCE: Final = 32
_QUICK_S: Final = 20.0
_NETNS: Final = Path("/run/netns")
_PROCESSES: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
_RESOLVERS: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_FORWARDS: Final = Path("/proc/sys/net/ipv4/ip_forward")

_RULES: Final = """\
table inet {table} {{
    chain to_host {{
        type filter hook input priority filter; policy accept;
        {doors}
        iifname "{link}" counter drop
    }}
    chain to_doors {{
        type nat hook prerouting priority dstnat; policy accept;
        {turns}
    }}
    chain through {{
        type filter hook forward priority filter; policy accept;
        oifname "{link}" ct state established,related accept
        oifname "{link}" counter drop
        iifname "{link}" oifname {{ "gw*", "bgw*" }} counter drop
        iifname "{link}" ip daddr {{ 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }} counter drop
        iifname "{link}" meta nfproto ipv6 counter drop
    }}
    chain to_world {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {inside} masquerade
    }}
}}
"""


@dataclass(frozen=True)
class Jail:
    """A place to run a build in.

    Attributes:
        prefix: Put before a command, it runs the command there.
        resolvers: Name servers that are reached from there.
        host: The host's address on the link; empty without a network.
        notice: What RUN steps have to do without, in a sentence; empty for nothing.
    """

    prefix: tuple[str, ...]
    resolvers: tuple[str, ...] = ()
    host: str = ""
    notice: str = ""

    def proxies(self, proxies: Mapping[str, str]) -> dict[str, str]:
        """Return proxies as they are reached from there: this host by its end of the link."""
        return {name: self._proxy(value) for name, value in proxies.items()}

    def _proxy(self, value: str) -> str:
        door = _door(value)
        if door is None or not door.on_loopback or not self.host:
            return value
        parts = urlsplit(value)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{self.host}:{door.port}"))


@dataclass(frozen=True)
class Door:
    """A port of this host that RUN steps may reach: a proxy's."""

    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        """Tell whether it is reached on loopback alone."""
        return ipaddress.ip_address(self.address).is_loopback


class Jails:
    """The jails of one builder.

    Args:
        run: A directory that names this builder, for lock files.
        resolvers: Name servers for RUN steps; those of this host when empty.
        proxies: Of RUN steps: what is let through to this host.
    """

    def __init__(
        self, run: Path, resolvers: tuple[str, ...] = (), proxies: Mapping[str, str] | None = None
    ) -> None:
        self._doors = doors((proxies or {}).values())
        self._run = run
        self._resolvers = resolvers
        self._key = hashlib.sha256(os.fsencode(run.absolute())).hexdigest()[:4]

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[Jail]:
        """Give a jail for one build; nothing of it is left afterwards."""
        await self.sweep()
        number, lock = self._take()
        try:
            try:
                await self._make(number)
            except (processes.ProgramFailed, Failure, OSError) as error:
                await self._remove(number)
                yield _closed(error)
            else:
                yield self._open(number)
        finally:
            try:
                await self._remove(number)
                self._lock_file(number).unlink(missing_ok=True)
            finally:
                os.close(lock)

    async def sweep(self) -> None:
        """Remove what builds that were killed left behind."""
        for path in self._run.glob("jail-*.lock"):
            lock = locks.try_lock(path)
            if lock is not None:
                try:
                    await self._remove(int(path.stem.removeprefix("jail-")))
                    path.unlink(missing_ok=True)
                finally:
                    os.close(lock)

    def _take(self) -> tuple[int, int]:
        self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(_AT_ONCE):
            lock = locks.try_lock(self._lock_file(number))
            if lock is not None:
                return number, lock
        raise Failure("rate_limited", f"{_AT_ONCE} builds run here already")

    def _lock_file(self, number: int) -> Path:
        return self._run / f"jail-{number}.lock"

    def _name(self, number: int) -> str:
        return f"bgw{self._key}-{number}"

    async def _make(self, number: int) -> None:
        """Make network namespace, link and rules.

        Raises:
            Failure: `failed_precondition` when the host does not forward.
            ProgramFailed: The kernel refuses.
        """
        if _FORWARDS.read_text().strip() != "1":
            raise Failure("failed_precondition", "this host does not forward IPv4 (agent away?)")
        await self._remove(number)
        name = self._name(number)
        network = _network(self._key, number)
        outside, inside = (str(address) for address in network.hosts())
        rules = _rules(name, outside=outside, inside=inside, doors=self._doors)
        for command in (
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip addr add {outside}/30 dev {name}",
            f"ip link set {name} up",
            f"ip -n {name} addr add {inside}/30 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
            f"ip -n {name} route add default via {outside}",
        ):
            await processes.run(command.split(), timeout_s=_QUICK_S)
        await processes.run(["nft", "-f", "-"], stdin=rules.encode(), timeout_s=_QUICK_S)
        if any(door.on_loopback for door in self._doors):
            _route_to_loopback(name)

    async def _remove(self, number: int) -> None:
        name = self._name(number)
        if (_NETNS / name).exists():
            await processes.run(["ip", "netns", "del", name], timeout_s=_QUICK_S, check=False)
        if name in (link for _, link in socket.if_nameindex()):
            await processes.run(["ip", "link", "del", name], timeout_s=_QUICK_S, check=False)
        table = f"inet godwit_{name}"
        gone = f"add table {table}\ndelete table {table}\n"
        with contextlib.suppress(processes.ProgramFailed):
            await processes.run(["nft", "-f", "-"], stdin=gone.encode(), timeout_s=_QUICK_S)

    def _open(self, number: int) -> Jail:
        found = self._resolvers or resolvers_here()
        notice = "" if found else "RUN steps find no names: this host's resolvers are on loopback"
        enter = ("nsenter", f"--net={_NETNS / self._name(number)}", "--")
        host = str(next(_network(self._key, number).hosts()))
        return Jail((*enter, *_PROCESSES), found, host, notice)


def doors(proxies: Iterable[str]) -> tuple[Door, ...]:
    """Return the ports of proxies that are named by an IPv4 address, or as this host."""
    return tuple(dict.fromkeys(door for one in proxies if (door := _door(one)) is not None))


def _door(proxy: str) -> Door | None:
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname or "", parts.port or 0
    except ValueError:
        return None
    if host in ("localhost", "::1"):
        host = "127.0.0.1"
    try:
        return Door(str(ipaddress.IPv4Address(host)), port) if port else None
    except ValueError:
        return None


def _rules(name: str, *, outside: str, inside: str, doors: Iterable[Door]) -> str:
    """Return the link's rules; they are loaded before anything runs behind it."""
    let, turned = [], []
    for door in doors:
        target = f"ip daddr {door.address} tcp dport {door.port}"
        let.append(f'iifname "{name}" {target} accept')
        if door.on_loopback:
            asked = f"ip daddr {outside} tcp dport {door.port}"
            turned.append(f'iifname "{name}" {asked} dnat ip to {door.address}')
    return _RULES.format(
        table=f"godwit_{name}",
        link=name,
        inside=inside,
        doors="\n        ".join(let),
        turns="\n        ".join(turned),
    )


def _route_to_loopback(link: str) -> None:
    """Have what comes by a link turned to loopback; its rules let nothing else in."""
    Path(f"/proc/sys/net/ipv4/conf/{link}/route_localnet").write_text("1")


def resolvers_here(files: tuple[Path, ...] = _RESOLVERS) -> tuple[str, ...]:
    """Return this host's name servers that a network namespace on it can reach."""
    for file in files:
        with contextlib.suppress(OSError):
            words = [line.split() for line in file.read_text().splitlines()]
            named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
            if found := reachable(named):
                return found
    return ()


def reachable(named: Iterable[str]) -> tuple[str, ...]:
    """Return those of `address[:port]` that a jail can ask, without their ports."""
    plain = (one.rpartition(":")[0] if one.count(":") == 1 else one for one in named)
    return tuple(address for address in plain if _reachable(address))


def _reachable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback  # noqa: PLR2004


def _network(key: str, number: int) -> ipaddress.IPv4Network:
    """Return four addresses of the range that providers keep for such links (RFC 6598)."""
    return ipaddress.IPv4Network(f"100.127.{int(key[:2], 16)}.{4 * number}/30")


def _closed(error: Exception) -> Jail:
    why = error.message if isinstance(error, Failure) else str(error).partition("\n")[0]
    prefix = ("unshare", "--net", *_PROCESSES[1:])
    return Jail(prefix, notice=f"RUN steps have no network: {why[:200]}")
