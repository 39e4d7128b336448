"""Addresses of machines, bit by bit (spec/network.md §3.1). Pure.

    fdaa : NNNN NNNN : HHHH HHHH : MMMM MMMM : 0002
    16b    32b network 32b host    32b slot    16b within the machine's /112

Beside it every machine has an IPv4 of its own host, 172.16.0.0/12 plus its slot.

Between hosts the same address has another form, in which the host comes first, so that one prefix
leads to all of a host's machines whatever their network:

    fdab : HHHH HHHH : NNNN NNNN : MMMM MMMM : 0001

The sum of its 16-bit words is the same, so checksums that cover one cover the other. Hosts
themselves are in network 0, which no machine is in (`wire.members`).
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Self

from godwit.agent import slots

PRIVATE = IPv6Network("fdaa::/16")
BETWEEN_HOSTS = IPv6Network("fdab::/16")
HOSTS = IPv6Network("fdaa::/48")
GATEWAY_V6 = IPv6Address("fe80::1")
LOCAL = IPv4Network("172.16.0.0/12")
GATEWAY_V4 = IPv4Address("172.16.0.1")
NETWORK_PREFIX = 48
_NUMBER = range(1, 1 << 32)
_SELF = 2
_SELF_BETWEEN_HOSTS = 1


@dataclass(frozen=True)
class PrivateAddress:
    """A machine's 6PN address, taken apart.

    Attributes:
        network_number: Names the organization's network in the address.
        host_number: Names the host inside every network.
        slot: Names the machine on its host.
    """

    network_number: int
    host_number: int
    slot: int

    def __post_init__(self) -> None:
        for name in ("network_number", "host_number"):
            if getattr(self, name) not in _NUMBER:
                raise ValueError(f"{name} {getattr(self, name)} is not within 1..2^32-1")
        slots.check(self.slot)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the parts of an address in text form.

        Raises:
            ValueError: It is not the address of a machine.
        """
        value = int(IPv6Address(text))
        if value >> 112 != int(PRIVATE.network_address) >> 112 or value & 0xFFFF != _SELF:
            raise ValueError(f"{text} is not the private address of a machine")
        return cls(value >> 80 & 0xFFFF_FFFF, value >> 48 & 0xFFFF_FFFF, value >> 16 & 0xFFFF_FFFF)

    @property
    def address(self) -> IPv6Address:
        """Return the address itself."""
        parts = self.network_number << 80 | self.host_number << 48 | self.slot << 16
        return IPv6Address(int(PRIVATE.network_address) | parts | _SELF)

    @property
    def between_hosts(self) -> IPv6Address:
        """Return the form that the address has on the way from host to host."""
        parts = self.host_number << 80 | self.network_number << 48 | self.slot << 16
        return IPv6Address(int(BETWEEN_HOSTS.network_address) | parts | _SELF_BETWEEN_HOSTS)

    @property
    def network(self) -> IPv6Network:
        """Return the prefix of the organization's network, which isolation is about."""
        return network_prefix(self.network_number)

    def __str__(self) -> str:
        return str(self.address)


def network_prefix(network_number: int) -> IPv6Network:
    """Return the /48 that all machines of a network share."""
    base = int(PRIVATE.network_address) | network_number << 80
    return IPv6Network((base, NETWORK_PREFIX))


def host_prefix(host_number: int) -> IPv6Network:
    """Return the /48 that all machines of a host share between hosts."""
    base = int(BETWEEN_HOSTS.network_address) | _checked(host_number) << 80
    return IPv6Network((base, NETWORK_PREFIX))


def _checked(host_number: int) -> int:
    if host_number not in _NUMBER:
        raise ValueError(f"host number {host_number} is not within 1..2^32-1")
    return host_number


def local_ipv4(slot: int) -> IPv4Address:
    """Return the IPv4 on which a machine's own host reaches it."""
    return LOCAL.network_address + slots.check(slot)


def slot_of_local_ipv4(address: str) -> int:
    """Return the slot behind a host-local IPv4.

    Raises:
        ValueError: It is not the address of a machine.
    """
    return slots.check(int(IPv4Address(address)) - int(LOCAL.network_address))


def link_local(mac: str) -> IPv6Address:
    """Return the address a Linux guest gives itself from its MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + interface)
