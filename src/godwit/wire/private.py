"""The addresses at which machines reach their host, and apps through its edge. Pure.

An app's in a network:

    fdaa : NNNN NNNN : 0000 0001 : CCCC CCCC CCCC
    16b    32b network 32b, no host  48b count within the network

Rust twin: `godwit_catalog::private`. The network is that of the machines that may come, which need
not be the app's own.
"""

from ipaddress import IPv6Address

RESOLVER = IPv6Address("fdaa::3")
"""Where every host answers its own machines, in no network."""
OF_APPS = IPv6Address("fdaa:0:0:0:1::")
"""What all of them have in common; the place of the host has 1, which no host is."""
OF_APPS_MASK = IPv6Address("ffff:0:0:ffff:ffff::")
"""All of an address but the network and the count."""
_NETWORKS = range(1, 1 << 32)
_COUNTS = range(1, 1 << 48)


def app_address(network_number: int, count: int) -> IPv6Address:
    """Return the address of that count in a network.

    Raises:
        ValueError: There is no such network, or it has no such address.
    """
    if network_number not in _NETWORKS or count not in _COUNTS:
        raise ValueError(f"network {network_number} has no address {count}")
    return IPv6Address(int(OF_APPS) | network_number << 80 | count)
