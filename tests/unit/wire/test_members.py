"""The addresses of hosts in the mesh."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.network import addresses
from godwit.wire import members
from godwit.wire.private import RESOLVER

NUMBERS = st.integers(1, 2**32 - 1)


def test_the_address_is_the_host_s_in_network_zero() -> None:
    assert members.mesh_address(65_537) == IPv6Address("fdaa:0:0:1:1::1")


@given(one=NUMBERS, other=NUMBERS)
def test_no_two_hosts_share_one(one: int, other: int) -> None:
    assert (members.mesh_address(one) == members.mesh_address(other)) == (one == other)


@given(number=NUMBERS, network=NUMBERS)
def test_it_is_in_no_organization_s_network(number: int, network: int) -> None:
    address = members.mesh_address(number)
    assert address not in addresses.network_prefix(network)
    assert address != RESOLVER


@pytest.mark.parametrize("number", [0, -1, 2**32])
def test_a_number_that_no_host_has_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="host number"):
        members.mesh_address(number)


def test_services_are_written_with_brackets_where_needed() -> None:
    ports = {"bus": 4222}
    assert members.services("10.0.0.1", ports) == {"bus": "10.0.0.1:4222"}
    assert members.services("fdaa::1", ports) == {"bus": "[fdaa::1]:4222"}
