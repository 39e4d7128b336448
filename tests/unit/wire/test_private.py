"""Addresses of apps within networks: told apart from machines' and hosts' by their bits."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.network.addresses import PrivateAddress, network_prefix
from godwit.wire import members, private

NUMBERS = st.integers(1, 2**32 - 1)
HOSTS = st.integers(65_536, 2**32 - 1)


def is_of_app(address: IPv6Address) -> bool:
    return int(address) & int(private.OF_APPS_MASK) == int(private.OF_APPS)


def test_an_example() -> None:
    assert str(private.app_address(0x22B7, 3)) == "fdaa:0:22b7:0:1::3"


@given(NUMBERS, st.integers(1, 2**48 - 1), HOSTS, st.integers(2, 1_000_000))
def test_an_apps_is_in_its_network_and_no_machines(
    network: int, count: int, host: int, slot: int
) -> None:
    address = private.app_address(network, count)
    assert address in network_prefix(network)
    assert is_of_app(address)
    assert not is_of_app(PrivateAddress(network, host, slot).address)
    assert not is_of_app(members.mesh_address(host))
    assert not is_of_app(private.RESOLVER)


@pytest.mark.parametrize(("network", "count"), [(0, 1), (2**32, 1), (1, 0), (1, 2**48)])
def test_there_are_no_others(network: int, count: int) -> None:
    with pytest.raises(ValueError, match="has no address"):
        private.app_address(network, count)
