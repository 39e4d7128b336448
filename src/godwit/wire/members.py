"""Where members of the cluster reach each other. Pure.

    fdaa : 0000 0000 : HHHH HHHH : 0000 0000 : 0001
    16b    network 0   32b host    machine 0   the host itself

Network 0 is the platform's own: no organization's, so no machine is in it (`docs/architecture.md`
has the form of machines' addresses).
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

_BASE = int(IPv6Address("fdaa::1"))
_HOST_NUMBERS = range(1, 1 << 32)
_KEY_BYTES = 32
BUS_SERVERS = 3
"""Of one region: as many as keep working while one is away."""


@dataclass(frozen=True)
class BusHost:
    """A host that serves its region's bus, or is to.

    Attributes:
        at: Where its server answers, `address:port`.
        removed: It did before it was removed.
    """

    number: int
    at: str
    removed: bool = False


def mesh_address(host_number: int) -> IPv6Address:
    """Return the address of a host in the mesh.

    Raises:
        ValueError: Such a number no host has.
    """
    if host_number not in _HOST_NUMBERS:
        raise ValueError(f"host number {host_number} is not within 1..2^32-1")
    return IPv6Address(_BASE | host_number << 48)


def backhaul(host_number: int, port: int) -> str:
    """Return where a host's edge takes what other hosts' edges send: on the mesh alone."""
    return at(str(mesh_address(host_number)), port)


def at(address: str, port: int) -> str:
    """Return `address:port`, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def services(address: str, ports: Mapping[str, int]) -> dict[str, str]:
    """Return where others reach what runs on a host, by role."""
    return {role: at(address, port) for role, port in ports.items()}


def serving(candidates: Iterable[BusHost]) -> list[str]:
    """Return where a region's bus is served, `address:port` each, of the hosts that are to do it.

    One does until there are three, for two of two would stand still while either is away; from
    then on all do. A region that had three keeps to what is left of them: it has been a cluster.
    """
    ordered = sorted(candidates, key=lambda one: one.number)
    left = [one.at for one in ordered if not one.removed]
    return left if len(ordered) >= BUS_SERVERS else left[:1]


def wireguard_key(text: str) -> str:
    """Return a WireGuard key.

    Raises:
        ValueError: It is none.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{text!r} is not a WireGuard key: {error}") from error
    if len(raw) != _KEY_BYTES or base64.b64encode(raw).decode() != text:
        raise ValueError(f"{text!r} is not a WireGuard key: 32 bytes in base64")
    return text
