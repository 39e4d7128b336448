"""Which WireGuard peers this host has, and which it should have. Pure.

`plan` compares what the device says with what the members' records say and returns what to tell
the device, peer by peer: one more host is one change, whatever their number. An endpoint that
WireGuard has learned from a peer's own packets (roaming) is left alone as long as the peer is
heard; a changed record, or silence, has it replaced by what the record says.

While a host changes its key its record holds both. The other hosts know the next one before it is
used (`Peer.next_key`), and give the host's addresses to it the moment it has shaken hands: the
owner of the key has switched.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from godwit.agent.network import addresses
from godwit.wire.members import mesh_address, wireguard_key

KEEPALIVE_S = 25
"""Keeps addresses translated on the way alive, and tells within minutes that a way is broken."""
SILENT_S = 180
"""WireGuard forgets a session after so long (REJECT_AFTER_TIME); one in use is renewed before."""
_DUMP_FIELDS = 8


@dataclass(frozen=True)
class Peer:
    """Another host, as its record says.

    Attributes:
        public_key: Of its WireGuard, base64.
        next_key: What its key will be; empty unless it is about to change.
        endpoints: Where it takes packets, `address:port`, the best first; none if it always
            begins itself.
        host_id: For people.
    """

    host_number: int
    public_key: str
    next_key: str = ""
    endpoints: tuple[str, ...] = ()
    host_id: str = ""

    @property
    def name(self) -> str:
        """Return what people call it."""
        return self.host_id or f"host {self.host_number}"

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the key, and the next one if there is one."""
        return (self.public_key, self.next_key) if self.next_key else (self.public_key,)

    @property
    def prefixes(self) -> frozenset[str]:
        """Return what comes from it and goes to it (WireGuard's AllowedIPs)."""
        own = f"{mesh_address(self.host_number)}/128"
        return frozenset({own, str(addresses.host_prefix(self.host_number))})


@dataclass(frozen=True)
class Seen:
    """A peer of the device.

    Attributes:
        endpoint: Where packets to it go; empty when that is not known.
        handshake_s: When it last shook hands, Unix time; 0 for never.
        received: Bytes; `sent` likewise.
    """

    endpoint: str = ""
    prefixes: frozenset[str] = frozenset()
    handshake_s: int = 0
    received: int = 0
    sent: int = 0
    keepalive_s: int = 0

    def silent(self, now_s: float) -> bool:
        """Tell whether the peer has not been heard of lately."""
        return now_s - self.handshake_s > SILENT_S


@dataclass(frozen=True)
class Device:
    """What the device says of itself; its private key only by its public half.

    Attributes:
        mark: Of the packets it sends; 0 for none.
    """

    public_key: str = ""
    port: int = 0
    peers: Mapping[str, Seen] = field(default_factory=dict)
    mark: int = 0


@dataclass(frozen=True)
class Change:
    """What the device is to be told about one peer.

    Attributes:
        remove: It is to go; nothing else counts then.
        endpoint: Empty to leave it as it is.
        prefixes: `None` to leave them as they are. Giving them takes them from another peer.
    """

    public_key: str
    remove: bool = False
    endpoint: str = ""
    prefixes: frozenset[str] | None = None
    keepalive: bool = False

    @property
    def arguments(self) -> list[str]:
        """Return the words for `wg set`."""
        words = ["peer", self.public_key]
        if self.remove:
            return [*words, "remove"]
        if self.endpoint:
            words += ["endpoint", self.endpoint]
        if self.prefixes is not None:
            words += ["allowed-ips", ",".join(sorted(self.prefixes))]
        if self.keepalive:
            words += ["persistent-keepalive", str(KEEPALIVE_S)]
        return words


def endpoint(text: str) -> str:
    """Return an endpoint, `address:port` with an IPv6 address in brackets.

    Raises:
        ValueError: It is none; a name is none, because WireGuard would look it up only once.
    """
    address, _, port = text.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    literal = ip_address(address[1:-1] if bracketed else address)
    if bracketed != (literal.version == 6) or not (port.isascii() and port.isdigit()):  # noqa: PLR2004
        raise ValueError(f"{text!r} is not `address:port`")
    if not 0 < int(port) < 1 << 16:
        raise ValueError(f"port {port} of {text!r} is not within 1..65535")
    return text


def usable(peers: Iterable[Peer], own_number: int) -> tuple[dict[int, Peer], list[str]]:
    """Return the other hosts by number, and a sentence for all that cannot be used.

    One bad record harms no other; of two that claim the same number or key, the first is taken.
    Of a host with a bad endpoint the rest is good: it may still begin conversations.
    """
    found: dict[int, Peer] = {}
    complaints = []
    claimed: set[str] = set()
    for peer in peers:
        if peer.host_number == own_number:
            continue
        try:
            _check(peer, found, claimed)
        except ValueError as error:
            complaints.append(f"{peer.name} is left out of the mesh: {error}")
            continue
        reachable, wrong = _endpoints(peer)
        complaints += wrong
        found[peer.host_number] = reachable
        claimed.update(peer.keys)
    return found, complaints


def _check(peer: Peer, found: Mapping[int, Peer], claimed: Collection[str]) -> None:
    mesh_address(peer.host_number)
    if peer.host_number in found:
        raise ValueError("another has the same number")
    for key in peer.keys:
        wireguard_key(key)
        if key in claimed:
            raise ValueError(f"another has the key {key}")


def _endpoints(peer: Peer) -> tuple[Peer, list[str]]:
    """Return the peer with those endpoints that are some, and what is wrong with the others."""
    good, wrong = [], []
    for each in peer.endpoints:
        try:
            good.append(endpoint(each))
        except ValueError as error:
            wrong.append(f"{peer.name} is not looked for at {each}: {error}")
    return replace(peer, endpoints=tuple(good)), wrong


def plan(
    device: Device,
    wanted: Iterable[Peer],
    given: Mapping[int, tuple[str, ...]],
    now_s: float,
    remembered: Mapping[str, str] | None = None,
) -> list[Change]:
    """Return what to tell the device; nothing when it is as it should be.

    Args:
        device: What it says.
        wanted: The other hosts.
        given: The endpoints in each host's record when the device was last told of it.
        now_s: Unix time.
        remembered: Where peers, by key, were last seen, for a device that has lost its memory.
    """
    changes: list[Change] = []
    kept: set[str] = set()
    for peer in wanted:
        active = _active(device, peer)
        kept.update(peer.keys)
        for key in sorted(peer.keys, key=lambda each: each != active):
            where = _endpoint(device.peers.get(key), peer, given, now_s)
            if not where and key not in device.peers:
                where = (remembered or {}).get(key, "")
            prefixes = peer.prefixes if key == active else frozenset()
            changes += _change(device.peers.get(key), key, where, prefixes)
    gone = [Change(key, remove=True) for key in sorted(device.peers) if key not in kept]
    return [*changes, *gone]


def active_key(device: Device, peer: Peer) -> str:
    """Return the key by which a host is reached now."""
    return _active(device, peer)


def changing(wanted: Iterable[Peer]) -> bool:
    """Tell whether some host is about to change its key."""
    return any(peer.next_key for peer in wanted)


def _active(device: Device, peer: Peer) -> str:
    following = device.peers.get(peer.next_key) if peer.next_key else None
    return peer.next_key if following is not None and following.handshake_s else peer.public_key


def _endpoint(
    seen: Seen | None, peer: Peer, given: Mapping[int, tuple[str, ...]], now_s: float
) -> str:
    """Return the endpoint to set, empty to leave it."""
    listed = peer.endpoints
    if not listed:
        return ""
    if seen is None or not seen.endpoint:
        return listed[0]
    former = given.get(peer.host_number)
    if former is not None and former != listed:
        return listed[0] if seen.endpoint != listed[0] else ""
    if not seen.silent(now_s):
        return ""
    at = listed.index(seen.endpoint) if seen.endpoint in listed else -1
    following = listed[(at + 1) % len(listed)]
    return following if following != seen.endpoint else ""


def _change(seen: Seen | None, key: str, where: str, prefixes: frozenset[str]) -> list[Change]:
    """Return the one change that a peer needs, if it needs any."""
    change = Change(
        key,
        endpoint=where,
        prefixes=prefixes if seen is None or seen.prefixes != prefixes else None,
        keepalive=seen is None or seen.keepalive_s != KEEPALIVE_S,
    )
    idle = not change.endpoint and change.prefixes is None and not change.keepalive
    return [] if idle else [change]


def parse(dump: str) -> Device:
    """Return what `wg show <device> dump` printed.

    Raises:
        ValueError: It is not that.
    """
    lines = [line.split("\t") for line in dump.splitlines()]
    if not lines or len(lines[0]) < 4:  # noqa: PLR2004 (private and public key, port, mark)
        raise ValueError("no dump of a WireGuard device")
    _, own, port, mark, *_ = lines[0]
    return Device(
        public_key="" if own == "(none)" else own,
        port=int(port),
        peers={line[0]: _seen(line) for line in lines[1:]},
        mark=0 if mark == "off" else int(mark, 0),
    )


def _seen(line: list[str]) -> Seen:
    if len(line) != _DUMP_FIELDS:
        raise ValueError(f"a peer's line has {len(line)} fields")
    _, _, where, prefixes, handshake, received, sent, keepalive = line
    return Seen(
        endpoint="" if where == "(none)" else where,
        prefixes=frozenset() if prefixes == "(none)" else frozenset(prefixes.split(",")),
        handshake_s=int(handshake),
        received=int(received),
        sent=int(sent),
        keepalive_s=0 if keepalive == "off" else int(keepalive),
    )
