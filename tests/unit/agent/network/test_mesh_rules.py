"""The rewriting of addresses, carried out by a reader of nftables' own statements."""

import re
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from godwit.agent import slots
from godwit.agent.network import addresses, mesh_rules
from godwit.agent.network.addresses import PrivateAddress
from godwit.wire.private import RESOLVER

numbers = st.integers(1, 2**32 - 1)
any_slot = st.integers(slots.FIRST_SLOT, slots.LAST_SLOT)
_STATEMENT = re.compile(r"@nh,(\d+),(\d+) set (?:@nh,(\d+),(\d+)|(\w+))")
_ICMP = 8


def parts(mesh: mesh_rules.Mesh | None, networks: Iterable[int]) -> mesh_rules.Parts:
    return mesh_rules.parts(
        mesh, networks, [], judging=False, sent="accept", received="accept", flows=8
    )


def chain(mesh: mesh_rules.Mesh, name: str) -> str:
    """Return the statements of a chain."""
    text = parts(mesh, []).chains
    return text.partition(f"    chain {name} {{\n")[2].partition("    }\n")[0]


def rewrite(packet: bytes, statements: str) -> bytes:
    """Return a packet after the payload statements of a chain, in their order."""
    made = bytearray(packet)
    for at, width, start, same, literal in _STATEMENT.findall(statements):
        length = int(width) // 8
        if literal:
            value = int(literal, 0).to_bytes(length, "big")
        else:
            assert same == width
            value = made[int(start) // 8 : int(start) // 8 + length]
        made[int(at) // 8 : int(at) // 8 + length] = value
    assert len(made) == len(packet)
    return bytes(made)


def header(source: addresses.IPv6Address, destination: addresses.IPv6Address) -> bytes:
    return bytes(8) + source.packed + destination.packed


def host(number: int) -> mesh_rules.Mesh:
    return mesh_rules.Mesh("mesh1", number, frozenset(), 51_820)


ways = st.tuples(numbers, numbers, numbers, any_slot, any_slot)


@given(ways)
def test_what_leaves_one_host_is_what_the_next_one_reads(way):
    network, here, there, sender, receiver = way
    one, two = PrivateAddress(network, here, sender), PrivateAddress(network, there, receiver)
    known = header(one.address, two.address)
    left = rewrite(known, chain(host(here), "leave"))
    assert left == header(one.address, two.between_hosts)
    signed = rewrite(left, chain(host(here), "sign"))
    assert signed == header(one.between_hosts, two.between_hosts)
    assert rewrite(signed, chain(host(there), "restore")) == known


@given(ways)
def test_an_error_about_what_cannot_leave_quotes_what_its_machine_sent(way):
    network, here, there, sender, receiver = way
    one, two = PrivateAddress(network, here, sender), PrivateAddress(network, there, receiver)
    outer = header(RESOLVER, one.address) + bytes(_ICMP)
    left = rewrite(header(one.address, two.address), chain(host(here), "leave"))
    answered = rewrite(outer + left, chain(host(here), "quote"))
    assert answered == outer + header(one.address, two.address)


@given(numbers)
def test_a_host_is_known_by_what_its_machines_have_in_common(number):
    line = mesh_rules.host_element("add", "godwit", number)
    masked = int(PrivateAddress(77, number, 5).address) & 0xFFFF_0000_0000_FFFF_FFFF_0000_0000_FFFF
    assert f"{{ {addresses.IPv6Address(masked)} }}" in line


@given(ways)
def test_a_network_is_known_by_what_its_two_ends_have(way):
    network, here, there, sender, receiver = way
    masks = mesh_rules.SENDER_NETWORK, mesh_rules._RECEIVER
    ends = PrivateAddress(network, there, sender), PrivateAddress(network, here, receiver)
    masked = [
        addresses.IPv6Address(int(end.between_hosts) & int(addresses.IPv6Address(mask)))
        for end, mask in zip(ends, masks, strict=True)
    ]
    line = mesh_rules.network_element("add", "godwit", network, here)
    assert f"{{ {masked[0]} . {masked[1]} }}" in line


def test_a_host_that_is_alone_has_no_rule_for_others():
    assert parts(None, [1, 2]) == mesh_rules.Parts()


@given(st.integers(1, 65_535))
def test_no_machines_flow_leaves_by_the_port_of_wireguard(port):
    made = parts(mesh_rules.Mesh("mesh1", 9, frozenset(), port), [])
    first, last = map(int, made.to_world.strip().rpartition(":")[2].split("-"))
    assert 1_024 <= first < last <= 65_535
    assert not first <= port <= last
    assert f"udp sport {port} masquerade" in made.to_world


def test_hosts_and_networks_are_elements_and_no_rules():
    few = parts(mesh_rules.Mesh("mesh1", 9, frozenset({1}), 51_820), [1])
    many = parts(mesh_rules.Mesh("mesh1", 9, frozenset(range(1, 99)), 51_820), range(1, 99))
    assert replace(few, sets="") == replace(many, sets="")
    assert few.sets.count("\n") == many.sets.count("\n")
