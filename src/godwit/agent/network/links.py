"""The kernel settings of taps and of the host's own side, as plain values. Pure.

`HostNetwork` hands the lines to `ip -batch` and the pairs to `/proc/sys/net`. Every tap has the
same gateway addresses and no bridge: what tells machines apart is the route to each, and what
keeps a guest from answering for another is that no packet for the other goes to its tap.
"""

import json
from dataclasses import dataclass

from godwit.agent import slots
from godwit.agent.network import addresses
from godwit.agent.network.addresses import PrivateAddress
from godwit.wire.private import RESOLVER

ROUTE_PROTOCOL = 103
"""Marks routes as Godwit's (rtnetlink's `proto`); below 128 and in nobody's list."""
TAP_GROUP = 0x6777
"""Interface group of every tap, so that all can be deleted at once (one wait in the kernel)."""
TO_CLIENT = 0x6775
"""Marks what a machine says to a UDP client: it goes to the edge's socket, not to the address."""
_TABLE = TO_CLIENT
"""The routing table that leads there, and the place of its rule before the main table's."""
_LAST_METRIC = 2_147_483_647
_OURS = f"proto {ROUTE_PROTOCOL}"

HOST_SYSCTLS = (
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/lo/disable_ipv6", "0"),
    ("ipv6/conf/all/forwarding", "1"),
)
"""What forwarding needs of the whole host, in this order."""

FORWARDING = {"ipv4": "ipv4/ip_forward", "ipv6": "ipv6/conf/all/forwarding"}
"""Which of them lets a host route, by family."""

_TAP_SYSCTLS = (
    ("ipv6/conf/{tap}/disable_ipv6", "0"),
    ("ipv6/conf/{tap}/addr_gen_mode", "1"),
    ("ipv6/conf/{tap}/accept_dad", "0"),
    ("ipv6/conf/{tap}/dad_transmits", "0"),
    ("ipv6/conf/{tap}/accept_ra", "0"),
    ("ipv6/conf/{tap}/accept_redirects", "0"),
    ("ipv6/conf/{tap}/proxy_ndp", "0"),
    ("ipv6/conf/{tap}/forwarding", "1"),
    ("ipv4/conf/{tap}/rp_filter", "1"),
    ("ipv4/conf/{tap}/arp_ignore", "1"),
    ("ipv4/conf/{tap}/arp_announce", "2"),
    ("ipv4/conf/{tap}/proxy_arp", "0"),
    ("ipv4/conf/{tap}/accept_redirects", "0"),
    ("ipv4/conf/{tap}/send_redirects", "0"),
    ("ipv4/conf/{tap}/accept_source_route", "0"),
    ("ipv4/conf/{tap}/forwarding", "1"),
)


def tap_sysctls(tap: str) -> list[tuple[str, str]]:
    """Return (name, value) for a tap, to be set while it is still down."""
    return [(name.format(tap=tap), value) for name, value in _TAP_SYSCTLS]


def host_commands() -> list[str]:
    """Return what the host's side needs once: the resolver's address, an end to stray packets.

    Without the last route a packet for a machine that is gone would leave by the default route.
    """
    return [
        "link set dev lo up",
        f"addr replace {RESOLVER}/128 dev lo nodad",
        f"route replace unreachable {addresses.PRIVATE} dev lo {_OURS} metric {_LAST_METRIC}",
        f"route replace local 0.0.0.0/0 dev lo table {_TABLE} {_OURS}",
        f"route replace local ::/0 dev lo table {_TABLE} {_OURS}",
    ]


def host_rules(verb: str) -> list[list[str]]:
    """Return the programs that add or delete the routing rules; to have one already is no harm."""
    rule = ["priority", str(_TABLE), "fwmark", hex(TO_CLIENT), "lookup", str(_TABLE)]
    return [["ip", family, "rule", verb, *rule] for family in ("-4", "-6")]


def host_leftovers() -> list[list[str]]:
    """Return the programs to run, each allowed to fail, that undo `host_commands`."""
    return [
        ["ip", "-6", "route", "flush", "proto", str(ROUTE_PROTOCOL)],
        *host_rules("del"),
        *(["ip", family, "route", "flush", "table", str(_TABLE)] for family in ("-4", "-6")),
        ["ip", "-6", "addr", "del", f"{RESOLVER}/128", "dev", "lo"],
    ]


def tap_commands(tap: str, private: PrivateAddress, mtu: int) -> list[str]:
    """Return what makes a tap the one way to its machine.

    The machine's hardware address is known, so its neighbour entries are permanent: no guest's
    flood of neighbour solicitations can push another's entry out of the host's table.
    """
    mac = slots.guest_mac(private.slot)
    local = addresses.local_ipv4(private.slot)
    link = addresses.link_local(mac)
    return [
        f"link set dev {tap} group {TAP_GROUP} address {slots.gateway_mac()} mtu {mtu} up",
        f"addr replace {addresses.GATEWAY_V6}/64 dev {tap} nodad",
        f"addr replace {addresses.GATEWAY_V4}/32 dev {tap}",
        f"neigh replace {private} lladdr {mac} nud permanent dev {tap}",
        f"neigh replace {link} lladdr {mac} nud permanent dev {tap}",
        f"neigh replace {local} lladdr {mac} nud permanent dev {tap}",
        f"route replace {private}/128 dev {tap} {_OURS} src {RESOLVER}",
        f"route replace {local}/32 dev {tap} {_OURS} src {addresses.GATEWAY_V4}",
    ]


@dataclass(frozen=True)
class PlumbedTap:
    """A tap that the kernel says has its machine's route."""

    tap: str
    private: PrivateAddress


def plumbed_taps(ip_json: bytes) -> list[PlumbedTap]:
    """Return the machines found in the output of `ip -6 -j route show proto …`."""
    found = []
    for route in json.loads(ip_json or b"[]"):
        tap, destination = str(route.get("dev", "")), str(route.get("dst", ""))
        if slot_of(tap) is None:
            continue
        try:
            found.append(PlumbedTap(tap, PrivateAddress.parse(destination.removesuffix("/128"))))
        except ValueError:
            continue
    return found


def slot_of(interface: str) -> int | None:
    """Return the slot whose tap has that name, `None` for any other interface."""
    digits = interface.removeprefix("gw")
    if digits == interface or not digits.isascii() or not digits.isdigit() or digits[0] == "0":
        return None
    slot = int(digits)
    return slot if slots.FIRST_SLOT <= slot <= slots.LAST_SLOT else None
