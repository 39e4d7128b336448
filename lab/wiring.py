"""Links, addresses, routes and cuts, as lines for `ip -batch` and `nft -f`. Pure.

Every host and client has a cable of its own to its region's router: a veth pair with the gateway
`fe80::1` and the router's IPv4 at the other end. Routers know the prefixes of the other regions by
plain routes over a tun device for each, whose other half `lab.relay` holds.
"""

import json

from lab import addressing
from lab.addressing import Addresses
from lab.plan import Plan

CABLE = "eth0"
"""A node's end of its cable."""
TABLE = "lab"
APPS_DOMAIN = "godwit.test"
"""Of every lab's Godwit; `test` is nobody's (RFC 6761)."""
_GATEWAY = "fe80::1"
MTU = 1_500
_TUN_PACKETS = 10_000
"""What waits for the relay in the kernel; beyond it packets are lost uncounted."""

ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # What comes back may come another way.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}
END_SYSCTLS = {"net/ipv6/conf/default/accept_dad": "0"}


def socket_of_router(name: str) -> str:
    """Return the router's end of a node's cable, named after the node."""
    return name


def tun(region: str) -> str:
    """Return a router's device towards another region."""
    return f"to-{region}"


def router(plan: Plan, region: str) -> list[str]:
    """Return what makes a router of an empty node."""
    own = addressing.of_region(plan, region)[plan.router(region)]
    lines = [f"addr add {own.v4}/32 dev lo", f"addr add {own.v6}/128 dev lo nodad"]
    for other in plan.regions:
        if other != region:
            there, device = addressing.prefixes(plan, other), tun(other)
            lines += [
                f"tuntap add dev {device} mode tun vnet_hdr",
                f"link set {device} mtu {MTU} txqueuelen {_TUN_PACKETS} up",
                f"route add {there.v4} dev {device} src {own.v4}",
                f"route add {there.v6} dev {device} src {own.v6}",
            ]
    return lines


def cable(name: str, end: Addresses, pid: int) -> list[str]:
    """Return what the router does to connect a node, given the node's first process."""
    socket = socket_of_router(name)
    return [
        f"link add {socket} type veth peer name {CABLE} netns {pid}",
        f"link set {socket} up",
        f"addr add {_GATEWAY}/64 dev {socket} nodad",
        f"route add {end.v4}/32 dev {socket}",
        f"route add {end.v6}/128 dev {socket}",
    ]


def end(own: Addresses, gateway: Addresses) -> list[str]:
    """Return what a node does with its end of the cable."""
    return [
        f"addr add {own.v4}/32 dev {CABLE}",
        f"addr add {own.v6}/128 dev {CABLE} nodad",
        f"link set {CABLE} up",
        f"route add default via {gateway.v4} dev {CABLE} onlink src {own.v4}",
        f"route add default via {_GATEWAY} dev {CABLE} src {own.v6}",
    ]


def cuts() -> str:
    """Return the router's table of cables that carry nothing: what nodes send, what they get."""
    return f"""\
table inet {TABLE} {{
    set from {{ type ifname; }}
    set to {{ type ifname; }}
    chain sent {{ type filter hook prerouting priority raw; iifname @from drop; }}
    chain got {{ type filter hook postrouting priority 300; oifname @to drop; }}
}}
"""


def cut(name: str, *, sends: bool, gets: bool) -> str:
    """Return the transaction after which a node's cable carries what is not cut."""
    element = f'{{ "{socket_of_router(name)}" }}'
    lines = []
    for which, is_cut in (("from", sends), ("to", gets)):
        # Added first in either case, so that deleting finds it.
        lines.append(f"add element inet {TABLE} {which} {element}\n")
        if not is_cut:
            lines.append(f"delete element inet {TABLE} {which} {element}\n")
    return "".join(lines)


def cut_in(listing: str) -> list[tuple[str, str]]:
    """Return the cuts in what `nft -j list table` printed: a node, and `sends` or `gets`."""
    sets = [row["set"] for row in json.loads(listing)["nftables"] if "set" in row]
    words = {"from": "sends", "to": "gets"}
    return [(name, words[one["name"]]) for one in sets for name in one.get("elem", ())]


def names(plan: Plan) -> str:
    """Return the /etc/hosts of every node."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for name, one in addressing.everywhere(plan).items():
        lines += [f"{one.v4} {name}", f"{one.v6} {name}"]
    return "\n".join(lines) + "\n"


def zone(plan: Plan, region: str) -> dict[str, list[str]]:
    """Return what a region's resolver answers: nodes, and apps with the region's own hosts.

    A region without hosts is told all of them. Edges listen on IPv4.
    """
    everyone = addressing.everywhere(plan)
    own = plan.hosts(region) or [name for code in plan.regions for name in plan.hosts(code)]
    nodes = {name: [str(one.v4), str(one.v6)] for name, one in everyone.items()}
    return {**nodes, f"*.{APPS_DOMAIN}": [str(everyone[name].v4) for name in own]}


def resolvers(gateway: Addresses) -> str:
    """Return the /etc/resolv.conf of a region's nodes; `lab.resolver` answers there."""
    return f"nameserver {gateway.v4}\noptions timeout:1 attempts:1\n"
