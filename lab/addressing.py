"""The underlay's addresses: what routers, hosts and clients have towards each other. Pure.

Of the prefixes kept for documentation (RFC 5737, RFC 3849): they are nobody's in the world, and to
guests' rules, which refuse private prefixes, they are the world.

    192.0.2.0/24, 198.51.100.0/24   a /27 for each region
    2001:db8:R::/48                 for the region R, from 1
    203.0.113.0/24, 2001:db8:ffff::/48   kept for anycast

A node has the same last number in both families: 1 the router, 4 to 19 hosts, 20 to 27 clients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from lab.plan import Plan

_V4 = (IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.0/24"))
_V6 = IPv6Network("2001:db8::/32")
_FIRST_HOST, _FIRST_CLIENT = 4, 20


@dataclass(frozen=True)
class Addresses:
    """A node's address of each family."""

    v4: IPv4Address
    v6: IPv6Address


@dataclass(frozen=True)
class Prefixes:
    """What a region's router is responsible for."""

    v4: IPv4Network
    v6: IPv6Network


def prefixes(plan: Plan, region: str) -> Prefixes:
    """Return a region's prefixes; they follow from its place in the plan."""
    number = list(plan.regions).index(region)
    v4 = [part for block in _V4 for part in block.subnets(new_prefix=27)][number]
    v6 = IPv6Network((int(_V6.network_address) | (number + 1) << 80, 48))
    return Prefixes(v4, v6)


def of_region(plan: Plan, region: str) -> dict[str, Addresses]:
    """Return the addresses of a region's nodes, by name."""
    own = prefixes(plan, region)
    return {
        name: Addresses(own.v4.network_address + number, own.v6.network_address + number)
        for name, number in _numbers(plan, region)
    }


def everywhere(plan: Plan) -> dict[str, Addresses]:
    """Return the addresses of all nodes, by name."""
    return {name: one for region in plan.regions for name, one in of_region(plan, region).items()}


def _numbers(plan: Plan, region: str) -> Iterator[tuple[str, int]]:
    yield plan.router(region), 1
    yield from ((name, n) for n, name in enumerate(plan.hosts(region), _FIRST_HOST))
    yield from ((name, n) for n, name in enumerate(plan.clients(region), _FIRST_CLIENT))
