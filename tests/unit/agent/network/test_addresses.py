from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent import slots
from godwit.agent.network import addresses
from godwit.agent.network.addresses import PrivateAddress
from godwit.wire.members import mesh_address

numbers = st.integers(1, 2**32 - 1)
any_slot = st.integers(slots.FIRST_SLOT, slots.LAST_SLOT)


def test_the_layout_is_the_public_one():
    address = PrivateAddress(network_number=1, host_number=0x0A7B_0001, slot=5)
    assert str(address) == "fdaa:0:1:a7b:1:0:5:2"
    assert str(address.network) == "fdaa:0:1::/48"


@given(numbers, numbers, any_slot)
def test_what_is_formatted_is_parsed(network, host, slot):
    address = PrivateAddress(network, host, slot)
    assert PrivateAddress.parse(str(address)) == address
    assert address.address in address.network
    assert address.address in addresses.PRIVATE


def words(address: IPv6Address) -> list[int]:
    packed = address.packed
    return [int.from_bytes(packed[at : at + 2], "big") for at in range(0, 16, 2)]


def test_between_hosts_the_host_comes_first():
    address = PrivateAddress(network_number=1, host_number=0x0A7B_0001, slot=5)
    assert str(address.between_hosts) == "fdab:a7b:1:0:1:0:5:1"
    assert str(addresses.host_prefix(0x0A7B_0001)) == "fdab:a7b:1::/48"
    assert str(mesh_address(0x0A7B_0001)) == "fdaa::a7b:1:0:0:1"


@given(numbers, numbers, any_slot)
def test_one_prefix_leads_to_all_machines_of_a_host_and_checksums_stay(network, host, slot):
    address = PrivateAddress(network, host, slot)
    assert address.between_hosts in addresses.host_prefix(host)
    assert sum(words(address.between_hosts)) == sum(words(address.address))


@given(numbers, numbers)
def test_prefixes_of_hosts_are_apart(one, other):
    overlap = addresses.host_prefix(one).overlaps(addresses.host_prefix(other))
    assert overlap == (one == other)


@given(numbers, numbers, numbers, any_slot)
def test_no_machine_has_the_address_of_a_host(number, network, host, slot):
    machine = PrivateAddress(network, host, slot)
    assert mesh_address(number) not in (machine.address, machine.between_hosts)


@pytest.mark.parametrize("number", [0, -1, 2**32])
def test_a_number_that_no_host_has_is_refused(number):
    with pytest.raises(ValueError, match="host number"):
        addresses.host_prefix(number)
    with pytest.raises(ValueError, match="host number"):
        mesh_address(number)


machines = st.builds(PrivateAddress, numbers, numbers, any_slot)


@given(machines, machines)
def test_different_machines_never_share_an_address(one, two):
    assert (str(one) == str(two)) == (one == two)


@given(numbers, numbers, numbers, any_slot)
def test_an_address_lies_in_its_own_network_only(n1, n2, host, slot):
    inside = PrivateAddress(n1, host, slot).address in addresses.network_prefix(n2)
    assert inside == (n1 == n2)


@given(st.integers(0, 2**128 - 1))
def test_parsing_accepts_machines_and_nothing_else(value):
    text = str(IPv6Address(value))
    try:
        parsed = PrivateAddress.parse(text)
    except ValueError:
        return
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "fdaa::3",
        "fdaa:0:1:a7b:1:0:5:3",
        "fdab:0:1:a7b:1:0:5:2",
        "fdaa:0:0:a7b:1:0:5:2",
        "fdaa:0:1:0:0:0:5:2",
        "fdaa:0:1:a7b:1:0:1:2",
        "fdaa:0:1:a7b:1:ffff:5:2",
        "10.0.0.1",
        "",
        "hello",
    ],
)
def test_what_is_no_machine_is_refused(text):
    with pytest.raises(ValueError):
        PrivateAddress.parse(text)


@pytest.mark.parametrize("number", [0, 2**32, -1])
def test_network_and_host_numbers_have_a_range(number):
    with pytest.raises(ValueError, match="network_number"):
        PrivateAddress(number, 1, 2)
    with pytest.raises(ValueError, match="host_number"):
        PrivateAddress(1, number, 2)


@given(any_slot)
def test_a_slot_has_one_local_ipv4_inside_the_range(slot):
    address = addresses.local_ipv4(slot)
    assert address in addresses.LOCAL
    assert address not in (
        addresses.GATEWAY_V4,
        addresses.LOCAL.network_address,
        addresses.LOCAL.broadcast_address,
    )
    assert addresses.slot_of_local_ipv4(str(address)) == slot


@pytest.mark.parametrize("text", ["172.16.0.1", "172.16.0.0", "172.31.255.255", "10.0.0.7"])
def test_the_gateway_and_the_edges_of_the_range_are_no_machine(text):
    with pytest.raises(ValueError):
        addresses.slot_of_local_ipv4(text)


def test_the_link_local_address_is_the_one_linux_makes():
    assert str(addresses.link_local("02:67:00:00:00:05")) == "fe80::67:ff:fe00:5"
