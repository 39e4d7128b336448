"""From which public addresses apps get theirs. Pure: pools and what is taken go in, one comes out.

Called by `addresses`. The operator names the pools (`base.settings.Addresses`); every edge answers
on all of them, so which address an app has says nothing of where it runs.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from godwit.base import errors

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SMALL = 65_536
"""Addresses of a pool that is looked through from its beginning; of others some are drawn."""
DRAWN = 32


@dataclass(frozen=True)
class Pools:
    """Addresses that the operator gives to apps.

    Attributes:
        v4: For one app each.
        v6: For one app each.
        shared_v4: What all apps answer on, chosen by host name; `None` when nobody has said.
    """

    v4: tuple[IPv4Network, ...] = ()
    v6: tuple[IPv6Network, ...] = ()
    shared_v4: IPv4Address | None = None


def parse(v4: Sequence[str], v6: Sequence[str], shared_v4: str | None) -> Pools:
    """Return pools of addresses and prefixes as settings write them.

    Raises:
        Failure: `invalid_argument`, naming the setting.
    """
    try:
        setting = "v4"
        own_v4 = tuple(IPv4Network(text) for text in v4)
        setting = "v6"
        own_v6 = tuple(IPv6Network(text) for text in v6)
        setting = "shared_v4"
        shared = None if shared_v4 is None else IPv4Address(shared_v4)
    except ValueError as error:
        raise errors.invalid(f"addresses.{setting}: {error}") from error
    return Pools(own_v4, own_v6, shared)


def is_small(pool: Sequence[Network]) -> bool:
    """Tell whether all that is taken of a pool is worth knowing."""
    return sum(network.num_addresses for network in pool) <= SMALL


def first_free(pool: Sequence[Network], taken: Collection[Address]) -> Address | None:
    """Return the first address of a small pool that is not taken; `None` when all are."""
    return next((one for network in pool for one in network if one not in taken), None)


def drawn(pool: Sequence[Network], chance: random.Random) -> list[Address]:
    """Return some addresses of a large pool, none of them twice in all likelihood."""
    sizes = [network.num_addresses for network in pool]
    networks = chance.choices(pool, weights=sizes, k=DRAWN)
    return [network[chance.randrange(network.num_addresses)] for network in networks]
