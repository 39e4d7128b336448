"""The host's whole packet policy towards machines, as nftables text. Pure.

`table` renders what `HostNetwork.start` loads in one transaction; `admit` and `expel` render what
one machine adds and takes away. Everything is keyed by the tap a packet comes from, so nothing a
guest writes into a packet can widen what it may do. In the order a packet meets the chains:

    guard      a tap's packets carry that machine's own addresses, or end here; before conntrack
    to_flycast what is for an app's address in the sender's own network is led to the edge here
    from_host  VMM processes own no network socket: their way out is the tap
    to_host    of the host a guest reaches the resolver, the edge by the way above, pings, and
               answers to what the host asked
    through    guest to guest within one 6PN network; guest to world; nothing comes in from
               outside, nor is routed for others where nothing was before Godwit had the host
               forward
    to_world   leaves under the host's own address
    pace_out   what a guest may send is bounded by bytes, and in pace_in what it is sent
    mesh_rules what there is besides, once there are other hosts; `shortcut` goes past all of it
    table arp  a guest asks for its gateway's hardware address and answers for its own

A machine that network policies select is judged in `through` by two sets of ports, `open_out` and
`open_in`: what it begins, and what others begin with it. What belongs to a flow that was allowed
passes. What goes by the host itself is never judged: names, the edge both ways, answers to the
host. Its flows with other hosts are tracked, which those of others are not (`mesh_rules`).

Every chain that hangs on a hook is asked about every packet of the host, WireGuard's own among
them, which are most. So they are few, and the first thing each asks is whether it is a tap's.

Flows are counted per tap, so that one guest cannot fill the host's connection table. An ICMP
error counts as part of a flow only where its own destination would be allowed, or the flow is the
host's to this very machine: otherwise one guest could speak about the flows of another.

The edge speaks to machines in the name of UDP clients, from sockets that have their addresses.
What a machine answers to the client is known by that socket and routed to it; none of it is
tracked, so that no flood of clients fills the host's connection table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from godwit.agent import slots
from godwit.agent.judging import FREE, Judgement, Ports
from godwit.agent.network import addresses, links, mesh_rules
from godwit.wire.private import OF_APPS, OF_APPS_MASK, RESOLVER

TABLE = "godwit"
REFUSED_V4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
"""Not of the world: other guests, metadata services, the networks the host is managed on, and what
else IANA's special-purpose registry says is not to be forwarded. The three prefixes for examples
lead nowhere and are left to it."""
REFUSED_V6 = ("::/3", "4000::/2", "8000::/1", "2001::/23", "2002::/16")
"""As above. The world is 2000::/3 alone; outside it lie loopback, embedded IPv4 and NAT64
(64:ff9b::/96, 64:ff9b:1::/48), which would be ways around the list for IPv4, discard-only
(100::/64), segment routing (5f00::/16), local (fc00::/7, where `fdaa::/16` is judged before),
link-local, the former site-local (fec0::/10) and multicast. Inside it protocol assignments with
Teredo, ORCHID and benchmarking (2001::/23), and 6to4, which embeds IPv4 as well."""


OF_CLIENT = 0x6776
"""Marks what the edge says in a client's name; `MARK` in the edge's `datagrams/mouth.rs`."""


@dataclass(frozen=True)
class Policy:
    """What differs from host to host.

    Attributes:
        uplink: Interface towards the world; `None` for whichever the route names.
        first_vm_uid: VMM processes run under this uid plus their slot.
        allowed: Prefixes that guests may reach although they are private.
        flows_per_machine: Tracked connections one machine may hold.
        queries_per_second: Questions one machine may ask the resolver, in datagrams.
        mbit_each_way: Traffic of one machine, Mbit a second; 0 for as much as there is. A
            second's worth may come at once. What comes from other hosts by the short way
            (`shortcut`) is counted for itself.
        flycast: TCP port at the resolver's address where the edge takes what is for apps.
    """

    uplink: str | None = None
    first_vm_uid: int = 2_000_000
    allowed: tuple[str, ...] = ()
    flows_per_machine: int = 8_192
    queries_per_second: int = 2_000
    mbit_each_way: int = 0
    flycast: int = 4_283


@dataclass(frozen=True)
class Guest:
    """What the policy knows of one machine.

    Attributes:
        judgement: What network policies allow it.
    """

    tap: str
    slot: int
    private: addresses.PrivateAddress
    judgement: Judgement = FREE

    @property
    def elements(self) -> tuple[tuple[str, str], ...]:
        """Return (set, element) for each set this machine alone is in."""
        link = addresses.link_local(slots.guest_mac(self.slot))
        return (
            ("sources4", f'"{self.tap}" . {addresses.local_ipv4(self.slot)}'),
            ("sources6", f'"{self.tap}" . {self.private}'),
            ("links6", f'"{self.tap}" . {link}'),
            *self.judged,
        )

    @property
    def judged(self) -> tuple[tuple[str, str], ...]:
        """Return those of them that say what network policies allow it."""
        if not self.judgement:
            return ()
        return (
            ("judged", f'"{self.tap}"'),
            ("judged6", str(self.private)),
            *self._direction("out", self.judgement.egress),
            *self._direction("in", self.judgement.ingress),
        )

    @property
    def leaving(self) -> str:
        """Return the element that says what is done to its packets for other hosts."""
        return mesh_rules.leaving(self.tap, self.private, judged=bool(self.judgement))

    def _direction(self, way: str, ports: Ports | None) -> Iterable[tuple[str, str]]:
        if ports is not None:
            yield f"closed_{way}", f'"{self.tap}"'
            for protocol, port in sorted(ports):
                yield f"open_{way}", f'"{self.tap}" . {protocol} . {port}'


def guest(private: addresses.PrivateAddress, judgement: Judgement = FREE) -> Guest:
    """Return what the policy knows of the machine with that address."""
    return Guest(slots.tap_name(private.slot), private.slot, private, judgement)


def table(
    policy: Policy,
    guests: Iterable[Guest],
    *,
    closed: Iterable[str] = (),
    mesh: mesh_rules.Mesh | None = None,
) -> str:
    """Return the transaction that replaces whatever stood before, flows left alone.

    Args:
        policy: What differs from host to host.
        guests: The machines to let through.
        closed: Families (`ipv4`, `ipv6`) in which the host routes for nobody but its machines.
        mesh: How the host is part of the mesh; `None` when it is alone.
    """
    members = list(guests)
    paced = policy.mbit_each_way > 0
    sent, received = (f"goto pace_{way}" if paced else "accept" for way in ("out", "in"))
    between = mesh_rules.parts(
        mesh,
        (g.private.network_number for g in members),
        sorted(g.leaving for g in members),
        judging=any(g.judgement for g in members),
        sent=sent,
        received=received,
        flows=policy.flows_per_machine,
    )
    return _TABLES.format(
        drop_tables=remove(),
        refused4=_elements(REFUSED_V4),
        refused6=_elements(REFUSED_V6),
        allowed4=_elements(_family(policy.allowed, IPv4Network)),
        allowed6=_elements(_family(policy.allowed, IPv6Network)),
        not_uplink=f'oifname != "{policy.uplink}"' if policy.uplink else 'oifname "gw*"',
        first_uid=policy.first_vm_uid,
        last_uid=policy.first_vm_uid + slots.LAST_SLOT,
        flows=policy.flows_per_machine,
        queries=policy.queries_per_second,
        resolver=RESOLVER,
        flycast=policy.flycast,
        app_mask=OF_APPS_MASK,
        of_apps=OF_APPS,
        gateway4=addresses.GATEWAY_V4,
        gateway6=addresses.GATEWAY_V6,
        of_client=hex(OF_CLIENT),
        caught=hex(links.TO_CLIENT),
        private=addresses.PRIVATE,
        slots=slots.LAST_SLOT,
        mask=_MASK,
        pace=_pace(policy.mbit_each_way),
        sent=sent,
        received=received,
        strangers=_strangers(closed),
        mesh=between,
        **_filled(members),
    )


def admit(machine: Guest, *, in_mesh: bool = False, former: Judgement = FREE) -> str:
    """Return the transaction that lets a machine's packets through.

    Args:
        machine: It.
        in_mesh: There are other hosts: the table was rendered with a mesh.
        former: What it was allowed before, if it was admitted already.
    """
    before = guest(machine.private, former)
    lines = []
    if before != machine:
        lines += _lines("delete", before.judged)
        if in_mesh:
            lines += [_leaving(verb, before) for verb in ("add", "delete")]
    lines += [*_each("add", machine), *_network("add", machine.private, in_mesh)]
    if in_mesh:
        lines.append(_leaving("add", machine))
        if machine.judgement:
            lines.append(mesh_rules.judging(TABLE))
    return "".join(lines)


def expel(machine: Guest, *, last_of_network: bool, in_mesh: bool = False) -> str:
    """Return the transaction that ends it; correct also when the machine was never admitted."""
    lines = [*_each("add", machine), *_each("delete", machine)]
    for verb in ("add", "delete"):
        if in_mesh:
            lines.append(_leaving(verb, machine))
        if last_of_network:
            lines += _network(verb, machine.private, in_mesh)
    return "".join(lines)


def remove() -> str:
    """Return the transaction that removes the policy, if it is there."""
    return "".join(
        f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n"
        for family in ("inet", "arp")
    )


_BURST_KB = 256
"""A few of the largest packets that a tap hands over."""


def limit(mbit: int) -> str:
    """Return the match of what goes beyond a machine's rate, empty for as much as there is."""
    if not mbit:
        return ""
    # The kernel's bucket holds a second's worth beside the burst.
    return f"limit rate over {mbit * 1_000 // 8} kbytes/second burst {_BURST_KB} kbytes"


def _pace(mbit: int) -> str:
    """Return what ends a tap's packets beyond its rate and lets the others go."""
    beyond = limit(mbit)
    if not beyond:
        return ""
    return "".join(
        f"""\
    set paced_{way} {{ type ifname; size {slots.LAST_SLOT}; flags dynamic, timeout; timeout 1m; }}
    counter paced_{way} {{ }}
    chain pace_{way} {{
        {of_taps}update @paced_{way} {{ {device} {beyond} }} counter name paced_{way} drop
        accept
    }}
"""
        # What guests send may go elsewhere than to one.
        for way, of_taps, device in (("out", "", "iifname"), ("in", 'oifname "gw*" ', "oifname"))
    )


def _strangers(closed: Iterable[str]) -> str:
    """Return the rules for packets neither from nor to a machine; bridges do not route."""
    families = sorted(closed)
    rules = [f"meta nfproto {family} counter name strangers drop" for family in families]
    if rules:
        rules.insert(0, 'meta iifkind "bridge" meta oifkind "bridge" accept')
        # Builds on this host have links of their own: `builder.jail` judges them.
        rules.insert(1, 'iifname "bgw*" accept')
        rules.insert(2, 'oifname "bgw*" ct state established,related accept')
    return "".join(f"        {rule}\n" for rule in rules)


_OWN_SETS = (
    *("sources4", "sources6", "links6"),
    *("judged", "judged6", "closed_out", "closed_in", "open_out", "open_in"),
)
_MASK = IPv6Network((0, addresses.NETWORK_PREFIX)).netmask


def _named(members: Iterable[Guest], name: str) -> list[str]:
    return [element for g in members for held_by, element in g.elements if held_by == name]


def _filled(members: Iterable[Guest]) -> dict[str, str]:
    """Return what is in each set that machines are in."""
    members = list(members)
    elements = {name: sorted(_named(members, name)) for name in _OWN_SETS}
    networks = sorted({g.private.network for g in members})
    elements["networks"] = [_pair(network) for network in networks]
    fill = {name: _elements(values) for name, values in elements.items()}
    return {**fill, "arp": fill["sources4"]}


def _pair(network: IPv6Network) -> str:
    return f"{network.network_address} . {network.network_address}"


def _each(verb: str, machine: Guest) -> list[str]:
    named = [(name, element) for name, element in machine.elements if name == "sources4"]
    return [*_lines(verb, machine.elements), *_lines(verb, named, family="arp")]


def _lines(verb: str, elements: Iterable[tuple[str, str]], family: str = "inet") -> list[str]:
    return [f"{verb} element {family} {TABLE} {name} {{ {each} }}\n" for name, each in elements]


def _leaving(verb: str, machine: Guest) -> str:
    return f"{verb} element inet {TABLE} leaving {{ {machine.leaving} }}\n"


def _network(verb: str, private: addresses.PrivateAddress, in_mesh: bool) -> list[str]:
    lines = [f"{verb} element inet {TABLE} networks {{ {_pair(private.network)} }}\n"]
    if in_mesh:
        numbers = private.network_number, private.host_number
        lines.append(mesh_rules.network_element(verb, TABLE, *numbers))
    return lines


def _elements(values: Iterable[str]) -> str:
    listed = ", ".join(values)
    return f"elements = {{ {listed} }}" if listed else ""


def _family(prefixes: Iterable[str], kind: type[IPv4Network | IPv6Network]) -> list[str]:
    return [str(p) for p in map(ip_network, prefixes) if isinstance(p, kind)]


_TABLES = """\
{drop_tables}\
table inet godwit {{
    set sources4 {{ type ifname . ipv4_addr; {sources4} }}
    set sources6 {{ type ifname . ipv6_addr; {sources6} }}
    set links6 {{ type ifname . ipv6_addr; {links6} }}
    set networks {{ type ipv6_addr . ipv6_addr; {networks} }}
    set judged {{ type ifname; {judged} }}
    set judged6 {{ type ipv6_addr; {judged6} }}
    set closed_out {{ type ifname; {closed_out} }}
    set closed_in {{ type ifname; {closed_in} }}
    set open_out {{ type ifname . inet_proto . inet_service; {open_out} }}
    set open_in {{ type ifname . inet_proto . inet_service; {open_in} }}
    set refused4 {{ type ipv4_addr; flags interval; {refused4} }}
    set refused6 {{ type ipv6_addr; flags interval; {refused6} }}
    set allowed4 {{ type ipv4_addr; flags interval; {allowed4} }}
    set allowed6 {{ type ipv6_addr; flags interval; {allowed6} }}
    set flows {{ type ifname; size {slots}; flags dynamic; }}
    set queries {{ type ifname; size {slots}; flags dynamic, timeout; timeout 1m; }}
    counter spoofed {{ }}
    counter flooded {{ }}
    counter refused_by_host {{ }}
    counter refused_on_the_way {{ }}
    counter refused_by_policy {{ }}
    counter escaped {{ }}
    counter strangers {{ }}
{mesh.sets}
{pace}\
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname "gw*" goto from_tap
{mesh.from_elsewhere}\
    }}
    chain from_tap {{
        meta l4proto {{ udp, icmp, ipv6-icmp }} socket transparent 1 goto to_client
{mesh.from_tap}\
        iifname . ip6 saddr @sources6 ip6 daddr {resolver} udp dport 53 goto question
        iifname . ip6 saddr @sources6 {sent}
        iifname . ip saddr @sources4 {sent}
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} \
iifname . ip6 saddr @links6 {sent}
        counter name spoofed drop
    }}
    chain to_client {{
        iifname . ip saddr @sources4 meta mark set {caught} notrack {sent}
        iifname . ip6 saddr @sources6 meta mark set {caught} notrack {sent}
        counter name spoofed drop
    }}
    chain question {{
        update @queries {{ iifname limit rate over {queries}/second burst {queries} packets }} \
counter name flooded drop
        notrack {sent}
    }}
    chain to_flycast {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "gw*" ip6 daddr & {app_mask} == {of_apps} meta l4proto tcp \
ip6 saddr & {mask} . ip6 daddr & {mask} @networks dnat ip6 to [{resolver}]:{flycast}
    }}
    chain from_host {{
        type filter hook output priority raw; policy accept;
{mesh.from_host}\
        meta skuid {first_uid}-{last_uid} counter name escaped drop
        meta mark {of_client} notrack
        oifname "gw*" goto to_guest
    }}
    chain to_guest {{
        ip6 saddr {resolver} udp sport 53 notrack
{mesh.to_guest}\
        {received}
    }}

    chain to_host {{
        type filter hook input priority filter; policy accept;
        iifname != "gw*" accept
        meta mark {caught} accept
        ct state established accept
        ct state related iifname . ct original ip daddr @sources4 accept
        ct state related iifname . ct original ip6 daddr @sources6 accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip6 daddr {resolver} udp dport 53 accept
        ip6 daddr {resolver} tcp dport 53 jump new_flow
        ip6 daddr {resolver} tcp dport 53 accept
        ip6 daddr {resolver} tcp dport {flycast} ct status dnat jump new_flow
        ip6 daddr {resolver} tcp dport {flycast} ct status dnat accept
        ip6 daddr {{ {resolver}, {gateway6} }} icmpv6 type echo-request jump new_flow
        ip6 daddr {{ {resolver}, {gateway6} }} icmpv6 type echo-request accept
        ip daddr {gateway4} icmp type echo-request jump new_flow
        ip daddr {gateway4} icmp type echo-request accept
        counter name refused_by_host drop
    }}

    chain through {{
        type filter hook forward priority filter; policy accept;
        iifname "gw*" goto from_guest
{mesh.through}\
        oifname "gw*" ct state established, related {received}
        oifname "gw*" counter name refused_on_the_way drop
{strangers}\
    }}
    chain from_guest {{
{mesh.from_guest}\
        ct state established {received}
        ct state invalid drop
        iifname @closed_out ct state != related jump begun_by_guest
        jump new_flow
        tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        ip6 daddr {private} goto from_guest_to_private
        ip daddr @allowed4 goto from_guest_to_world
        ip6 daddr @allowed6 goto from_guest_to_world
        ip daddr @refused4 counter name refused_on_the_way drop
        ip6 daddr @refused6 counter name refused_on_the_way drop
        goto from_guest_to_world
    }}
    chain from_guest_to_private {{
        oifname @closed_in ct state != related jump begun_with_guest
        oifname "gw*" ip6 saddr & {mask} . ip6 daddr & {mask} @networks {received}
        counter name refused_on_the_way drop
    }}
    chain from_guest_to_world {{
        {not_uplink} counter name refused_on_the_way drop
        accept
    }}
    chain begun_by_guest {{
        iifname . meta l4proto . th dport @open_out return
        counter name refused_by_policy drop
    }}
    chain begun_with_guest {{
        oifname . meta l4proto . th dport @open_in return
        counter name refused_by_policy drop
    }}
    chain new_flow {{
        ct state new add @flows {{ iifname ct count over {flows} }} counter name flooded drop
    }}

    chain to_world {{
        type nat hook postrouting priority srcnat; policy accept;
{mesh.to_world}\
        iifname "gw*" oifname != "gw*" masquerade
    }}
{mesh.chains}\
}}
table arp godwit {{
    set sources4 {{ type ifname . ipv4_addr; {arp} }}

    chain asked {{
        type filter hook input priority filter; policy accept;
        iifname != "gw*" accept
        iifname . arp saddr ip @sources4 arp daddr ip {gateway4} accept
        drop
    }}
}}
"""
