"""Pools of addresses: what settings may say, and that nothing is given twice."""

import random
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.control import address_pools

V6 = ("2001:db8:1::/64", "2001:db8:2::7")


@pytest.mark.parametrize(
    ("v4", "v6", "shared", "said"),
    [
        (("203.0.113.0/33",), (), None, "addresses.v4: "),
        (("203.0.113.1/24",), (), None, "addresses.v4: 203.0.113.1/24 has host bits set"),
        (("2001:db8::/64",), (), None, "addresses.v4: "),
        ((), ("203.0.113.0/24",), None, "addresses.v6: "),
        ((), ("web",), None, "addresses.v6: "),
        ((), (), "2001:db8::1", "addresses.shared_v4: "),
        ((), (), "web", "addresses.shared_v4: "),
    ],
)
def test_settings_that_name_no_addresses_are_refused(v4, v6, shared, said) -> None:
    with pytest.raises(errors.Failure) as caught:
        address_pools.parse(v4, v6, shared)
    assert caught.value.message.startswith(said)


@given(st.sets(st.integers(0, 9)))
def test_the_first_that_is_free_is_given(numbers: set[int]) -> None:
    pools = address_pools.parse(("203.0.113.0/29", "198.51.100.1", "198.51.100.9"), (), None)
    every = [*(ip_address(f"203.0.113.{n}") for n in range(8))]
    every += [ip_address("198.51.100.1"), ip_address("198.51.100.9")]
    taken = {every[number] for number in numbers}
    free = [one for one in every if one not in taken]
    assert address_pools.is_small(pools.v4)
    assert address_pools.first_free(pools.v4, taken) == (free[0] if free else None)


def test_of_a_large_pool_some_are_drawn() -> None:
    pool = address_pools.parse((), V6, None).v6
    assert not address_pools.is_small(pool)
    found = address_pools.drawn(pool, random.Random(7))
    assert len(set(found)) == len(found) == address_pools.DRAWN
    assert all(any(one in network for network in pool) for one in found)
