"""What the packet policy says about other hosts, as nftables text; part of `rules.table`. Pure.

Machines know one form of addresses, the way between hosts another (`addresses`). In the order in
which a packet from here to a machine of another host meets the chains:

    leave      its destination is a machine of a known host, in the sender's own network: it gets
               the form by which routes lead to that host; conntrack never sees it
    depart     nothing but what came by `leave` goes to the mesh; after routing its source gets
               that form as well

and one that comes from another host:

    arrive     WireGuard has seen to it that the sender is of the host it says; it is for the host
               itself, or for a machine here and of the sender's own network
    restore    both addresses get the form that machines know
    deliver    it goes to a machine and nowhere else

Words are moved and changed such that their sum stays: the checksums of TCP, UDP and ICMPv6 stay
right also where the kernel has computed them by half. nftables cannot exchange two fields; as the
network is the same in both addresses, each is read from the other while it is overwritten.
What the kernel answers to a packet that cannot leave quotes a form that its machine does not know;
`quote` puts it back, without which path MTU discovery would fail.

What a machine says that network policies select is tracked as well, or a reply could not be told
from what another begins. It has ways of its own beside these, so that the others have no more to
be asked:

    track      instead of `leave`: the sender's own network, and no more before it is tracked
    judge      after that, before it is routed: what the policies allow, then as in `leave`
    receive    instead of the end of `deliver`

WireGuard's own packets are never tracked and are asked about as little as can be: they are known
by a mark that only root can give, and by a port that no machine's flow is given on its way out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from godwit.agent.network import addresses
from godwit.wire.members import mesh_address

MARK = 0x67
"""Of the packets that WireGuard sends (SO_MARK: socket(7)). Within the one byte that Kubernetes,
Cilium, Calico and Tailscale leave alone."""


@dataclass(frozen=True)
class Mesh:
    """How this host is part of the mesh.

    Attributes:
        device: The WireGuard interface.
        host_number: This host's own.
        others: The numbers of the hosts whose machines are reached.
        port: UDP port of WireGuard.
    """

    device: str
    host_number: int
    others: frozenset[int]
    port: int


@dataclass(frozen=True)
class Parts:
    """What `rules.table` puts where; all empty on a host that is alone."""

    sets: str = ""
    from_elsewhere: str = ""
    from_tap: str = ""
    from_host: str = ""
    to_guest: str = ""
    through: str = ""
    from_guest: str = ""
    to_world: str = ""
    chains: str = ""


def parts(
    mesh: Mesh | None,
    network_numbers: Iterable[int],
    leaving: Iterable[str],
    *,
    judging: bool,
    sent: str,
    received: str,
    flows: int,
) -> Parts:
    """Return the mesh's share of the policy.

    Args:
        mesh: How this host is part of it; `None` when it is alone.
        network_numbers: Of the networks that have machines here.
        leaving: Of the machines here (`leaving`).
        judging: Network policies select one of them.
        sent: The verdict on what a machine may send.
        received: The verdict on what it may be sent.
        flows: Tracked connections one machine may hold.
    """
    if mesh is None:
        return Parts()
    hosts = ", ".join(_host(number) for number in sorted(mesh.others))
    here = sorted(set(network_numbers))
    networks = ", ".join(_network(number, mesh.host_number) for number in here)
    ways = ", ".join(leaving)
    values = {
        "leaving": f"elements = {{ {ways} }}" if ways else "",
        "judge": _JUDGE if judging else "",
        "to_host": _TO_HOST,
        "flows": flows,
        "sent": sent,
        "received": received,
        "port": mesh.port,
        "mark": hex(MARK),
        "other_ports": _beside(mesh.port),
        "hosts": f"elements = {{ {hosts} }}" if hosts else "",
        "networks": f"elements = {{ {networks} }}" if networks else "",
        "device": mesh.device,
        "between": addresses.BETWEEN_HOSTS,
        "of_hosts": addresses.HOSTS,
        "own": mesh_address(mesh.host_number),
        "number": mesh.host_number,
        "mask": _NETWORK,
        "mask_sender": SENDER_NETWORK,
        "mask_receiver": _RECEIVER,
    }
    texts = (
        *(_SETS, _FROM_ELSEWHERE, _FROM_TAP, _FROM_HOST, _TO_GUEST),
        *(_THROUGH, _FROM_GUEST, _TO_WORLD, _CHAINS),
    )
    return Parts(*(text.format(**values) for text in texts))


def _beside(port: int) -> str:
    """Return the larger range of unprivileged ports that does not have this one."""
    below, above = (1_024, port - 1), (max(port + 1, 1_024), 65_535)
    first, last = max(below, above, key=lambda ports: ports[1] - ports[0])
    return f"{first}-{last}"


def host_element(verb: str, table: str, host_number: int) -> str:
    """Return the line that adds or deletes a host whose machines are reached."""
    return f"{verb} element inet {table} hosts {{ {_host(host_number)} }}\n"


def network_element(verb: str, table: str, network_number: int, host_number: int) -> str:
    """Return the line that adds or deletes a network that has machines here."""
    element = _network(network_number, host_number)
    return f"{verb} element inet {table} mesh_networks {{ {element} }}\n"


def leaving(tap: str, private: addresses.PrivateAddress, *, judged: bool) -> str:
    """Return the element that says what is done to a machine's packets for other hosts."""
    return f'"{tap}" . {private} : goto {"track" if judged else "leave"}'


def judging(table: str) -> str:
    """Return the transaction that has the packets of judged machines judged; again as well.

    Nothing asks for its end but a new table: a host that had such a machine soon has another.
    """
    head, rule = (line.strip() for line in _JUDGE.strip().splitlines()[1:3])
    chain = f"chain inet {table} judge"
    return f"add {chain} {{ {head} }}\nflush {chain}\nadd rule inet {table} judge {rule}\n"


def _host(number: int) -> str:
    """Return what the addresses of a host's machines have in common, all else zero."""
    return str(IPv6Address(int(addresses.PRIVATE.network_address) | number << 48 | 2))


def sender(network_number: int) -> IPv6Address:
    """Return what a network's machines on all hosts have between hosts (`SENDER_NETWORK`)."""
    return IPv6Address(int(addresses.BETWEEN_HOSTS.network_address) | network_number << 48 | 1)


def _network(number: int, host_number: int) -> str:
    """Return what two ends between hosts have, from a network to the same one on this host."""
    source = sender(number)
    return f"{source} . {IPv6Address(int(source) | host_number << 80)}"


_NETWORK = "ffff:ffff:ffff::"
SENDER_NETWORK = "ffff:0:0:ffff:ffff::ffff"
_RECEIVER = "ffff:ffff:ffff:ffff:ffff::ffff"
"""All of an address between hosts but the machine, and the sender's host: that one is known by
WireGuard."""

_SETS = """\
    set hosts {{ type ipv6_addr; {hosts} }}
    set mesh_networks {{ type ipv6_addr . ipv6_addr; {networks} }}
    map leaving {{ type ifname . ipv6_addr : verdict; {leaving} }}
    counter refused_from_mesh {{ }}
"""

_FROM_ELSEWHERE = """\
        iifname "{device}" goto arrive
        meta nfproto ipv4 udp dport {port} notrack accept
        iifname != "lo" ip6 daddr {{ {of_hosts}, {between} }} counter name refused_from_mesh drop
        udp dport {port} notrack accept
"""

_FROM_TAP = """\
        ip6 daddr {between} counter name refused_on_the_way drop
        ip6 daddr & ffff:0:0:ffff:ffff:0:0:ffff @hosts iifname . ip6 saddr vmap @leaving
"""

_FROM_HOST = """\
        meta mark {mark} notrack accept
"""

_TO_GUEST = """\
        icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded }} \
@nh,576,16 0xfdab jump quote
"""

_THROUGH = """\
        iifname "{device}" goto deliver
        oifname "{device}" counter name refused_on_the_way drop
"""

_FROM_GUEST = """\
        oifname "{device}" goto depart
"""

_TO_WORLD = """\
        oifname "{device}" accept
        iifname "gw*" oifname != "gw*" udp sport {port} masquerade to :{other_ports}
"""

_TO_HOST = """\
        @nh,208,32 set @nh,240,32 comment "destination: first the host"
        @nh,240,32 set @nh,80,32 comment "then the network, which is the source's"
        @nh,192,16 set 0xfdab
        @nh,304,16 set 1
"""

_JUDGE = """\
    chain judge {
        type filter hook prerouting priority mangle; policy accept;
        iifname @judged ip6 daddr & ffff:0:0:ffff:ffff:0:0:ffff @hosts goto judge_leaving
    }
"""
"""Hangs on a hook, so it is only there on a host that has had such a machine."""

_CHAINS = """\
    chain leave {{
        ip6 saddr & {mask} . ip6 daddr & {mask} != @networks \
counter name refused_on_the_way drop
        notrack
{to_host}\
        {sent}
    }}
    chain track {{
        ip6 saddr & {mask} . ip6 daddr & {mask} != @networks \
counter name refused_on_the_way drop
        {sent}
    }}
{judge}\
    chain judge_leaving {{
        ct state established,related goto lead
        ct state invalid drop
        iifname @closed_out jump begun_by_guest
        jump new_flow
        goto lead
    }}
    chain lead {{
{to_host}\
        accept
    }}
    chain depart {{
        tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        ct state untracked ip6 daddr {between} goto sign
        iifname @judged ip6 daddr {between} goto sign
        counter name refused_on_the_way drop
    }}
    chain sign {{
        @nh,112,32 set @nh,240,32 comment "source: the network, which is the destination's"
        @nh,80,32 set {number} comment "before it this host"
        @nh,64,16 set 0xfdab
        @nh,176,16 set 1
        accept
    }}

    chain arrive {{
        ip6 saddr & {mask_sender} . ip6 daddr & {mask_receiver} @mesh_networks goto restore
        ip6 daddr {own} ip6 saddr & ffff:ffff:ffff::ffff:ffff:ffff == fdaa::1 accept
        counter name refused_from_mesh drop
    }}
    chain restore {{
        @nh,112,32 set @nh,80,32 comment "source: its host behind"
        @nh,80,32 set @nh,240,32 comment "the network, which is the destination's"
        @nh,64,16 set 0xfdaa
        @nh,176,16 set 2
        @nh,192,48 set @nh,64,48 comment "destination: likewise"
        @nh,240,32 set {number} comment "behind it this host"
        @nh,304,16 set 2
        ip6 daddr @judged6 accept
        notrack accept
    }}
    chain deliver {{
        oifname @judged goto receive
        oifname "gw*" ct state untracked {received}
        counter name refused_from_mesh drop
    }}

    chain receive {{
        ct state established,related {received}
        ct state invalid drop
        oifname @closed_in jump begun_with_guest
        ct state new add @flows {{ oifname ct count over {flows} }} counter name flooded drop
        {received}
    }}

    chain quote {{
        @nh,624,32 set @nh,592,32 comment "as in `restore`, within what is quoted"
        @nh,592,32 set @nh,464,32
        @nh,576,16 set 0xfdaa
        @nh,688,16 set 2
    }}
"""
