"""What a machine's slot stands for on its host, where more than one part of the agent must agree.

The slot is the small number the agent gives a machine while it lives on this host. The tap
(`Plumbing.tap`) and the addresses are derived from it in `agent.network`; this module holds what
the network and the VMM both use: the hardware addresses, and the tap as a device file.
"""

import fcntl
import os
import struct

FIRST_SLOT = 2
LAST_SLOT = 1_048_574
"""172.16.0.0/12 holds this many slots; 0 is the network, 1 the gateway, the last the broadcast."""

TUN_DEVICE = "/dev/net/tun"
TAP_FLAGS = 0x0002 | 0x1000 | 0x4000
"""IFF_TAP, IFF_NO_PI, IFF_VNET_HDR (linux/if_tun.h)."""
_TUNSETIFF = 0x4004_54CA
_TUNSETPERSIST = 0x4004_54CB
_TUNSETOWNER = 0x4004_54CC
_GATEWAY_SLOT = 1


def check(slot: int) -> int:
    """Return the slot.

    Raises:
        ValueError: It is outside what an address can carry.
    """
    if not FIRST_SLOT <= slot <= LAST_SLOT:
        raise ValueError(f"slot {slot} is not within {FIRST_SLOT}..{LAST_SLOT}")
    return slot


def tap_name(slot: int) -> str:
    """Return the name of the slot's tap."""
    return f"gw{check(slot)}"


def guest_mac(slot: int) -> str:
    """Return the hardware address of the guest's interface: locally administered, `67` for g."""
    return _mac(check(slot))


def gateway_mac() -> str:
    """Return the hardware address of the host's end, the same on every tap."""
    return _mac(_GATEWAY_SLOT)


def create_tap(name: str, owner: int) -> None:
    """Ensure a persistent tap that only root and `owner` may open."""
    descriptor = _attach(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def open_tap(name: str) -> int:
    """Return a descriptor of the guest's end of an existing tap; the caller closes it.

    Raises:
        OSError: Somebody else holds it (EBUSY).
    """
    return _attach(name)


def open_passing_tap() -> int:
    """Return a descriptor of a tap that leads nowhere and goes with it; the kernel names it."""
    return _attach("gwt%d")


def _attach(name: str) -> int:
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_FLAGS))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _mac(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in b"\x02\x67" + number.to_bytes(4, "big"))
