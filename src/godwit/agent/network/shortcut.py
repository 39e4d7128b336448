"""The short way from the mesh to a machine: past routing, connection tracking and every hook.

What `mesh_rules` does to a packet from another host in three hooks is done here in one, the
ingress of the mesh's interface: one lookup judges the two ends and leads to the machine's own
chain, which puts the addresses back and hands the packet to the machine's tap. All it says are
constants: each statement less is felt, as this is done to every packet that arrives. It is a
shortcut and nothing else: what is not plainly for a machine here, is larger than the mesh carries
or has no hop left goes on to the long way, where it is judged by all the rules and answered if
need be. So does everything while there is no shortcut, as on a kernel without `fwd`. TCP may be
larger: `wireguard-go` hands over segments of one flow joined to one packet, of which the kernel
knows how they were cut.

The way from a machine into the mesh has none: a machine hands over large segments, so that the
rules are asked once for what becomes dozens of packets.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable

from godwit.agent import slots
from godwit.agent.network import mesh_rules
from godwit.agent.network.addresses import PrivateAddress
from godwit.base import processes

logger = logging.getLogger(__name__)

TABLE = "godwit"
_NOWHERE, _UNKNOWN = 0, -1
"""Where the shortcut begins, instead of an interface's index."""

Nft = Callable[[str], Awaitable[None]]
"""Runs a transaction; raises `processes.ProgramFailed`."""
IndexOf = Callable[[str], int]
"""Returns an interface's index, 0 when there is none of that name."""


def index_of(interface: str) -> int:
    """Return an interface's index in this thread's namespace, 0 when there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def table(
    mesh: mesh_rules.Mesh, taps: Iterable[tuple[PrivateAddress, int]], *, mtu: int, pace: str
) -> str:
    """Return the transaction that replaces whatever shortcut there was.

    Args:
        mesh: How the host is part of it; its interface exists.
        taps: The machines, and the index of each one's tap.
        mtu: What the mesh carries, bytes.
        pace: The limit that finds packets beyond a machine's rate (`rules.limit`), or empty.
    """
    listed = sorted(taps, key=lambda each: each[0].slot)
    return _TABLE.format(
        drop=remove(),
        machines="".join(add(private, index, pace) for private, index in listed),
        device=mesh.device,
        mtu=mtu,
        mask=mesh_rules.SENDER_NETWORK,
    )


def add(private: PrivateAddress, index: int, pace: str) -> str:
    """Return the transaction that lets a machine be reached, whose tap has that index."""
    return _MACHINE.format(
        chain=_chain(private),
        ends=_ends(private),
        own=private,
        index=index,
        restore=restoring(private),
        paced=f"{pace} counter name paced_in drop; " if pace else "",
    )


def delete(private: PrivateAddress) -> str:
    """Return the transaction that ends it."""
    return _NO_MACHINE.format(chain=_chain(private), ends=_ends(private))


def restoring(private: PrivateAddress) -> str:
    """Return the statements that put back the addresses of what arrived for a machine."""
    network, own = private.network_number, int(private.address)
    statements = (
        # The source: its host behind, the network before; then the destination as it is here.
        "@nh,112,32 set @nh,80,32",
        f"@nh,64,48 set {0xFDAA_0000_0000 | network:#x}",
        "@nh,176,16 set 2",
        f"@nh,192,128 set {own:#x}",
    )
    return "; ".join(statements)


def remove() -> str:
    """Return the transaction that removes the shortcut, if it is there."""
    return f"add table netdev {TABLE}\ndelete table netdev {TABLE}\n"


class Shortcut:
    """The shortcut of one host, as far as this process has laid it."""

    def __init__(self, nft: Nft, *, mtu: int, pace: str, index: IndexOf = index_of) -> None:
        """Take what acts, and what `table` takes."""
        self._nft = nft
        self._index = index
        self._mtu = mtu
        self._pace = pace
        self._from = _UNKNOWN
        self._taps: dict[PrivateAddress, int] | None = None

    async def lay(
        self,
        mesh: mesh_rules.Mesh | None,
        plumbed: Iterable[PrivateAddress],
        *,
        anew: bool = False,
    ) -> None:
        """Ensure it from the mesh's interface, where there is one, to these machines.

        Args:
            mesh: How the host is part of it; `None` for not at all.
            plumbed: All machines, whose taps exist.
            anew: Also if it seems to be there.
        """
        device = self._index(mesh.device) if mesh is not None else _NOWHERE
        if mesh is None or device == _NOWHERE:
            await self.close()
            return
        if device == self._from and not anew:
            return
        taps = {private: self._index(slots.tap_name(private.slot)) for private in plumbed}
        taps = {private: index for private, index in taps.items() if index}
        self._from = device
        try:
            await self._nft(table(mesh, taps.items(), mtu=self._mtu, pace=self._pace))
            self._taps = taps
        except processes.ProgramFailed as error:
            # Not tried again before the interface is another: this kernel cannot do it.
            self._taps = None
            logger.warning("packets from other hosts go the long way: %s", error)

    async def close(self) -> None:
        """Ensure that there is none, an earlier process's included; `lay` lays it again."""
        former, self._from, self._taps = self._from, _NOWHERE, None
        if former == _NOWHERE:
            return
        try:
            await self._nft(remove())
        except processes.ProgramFailed as error:
            logger.debug("no shortcut to remove: %s", error)

    def admit(self, private: PrivateAddress) -> str:
        """Return the transaction that lets a machine be reached by it, whose tap exists."""
        index = self._index(slots.tap_name(private.slot))
        if self._taps is None or not index or self._taps.get(private) == index:
            return ""
        former = self.expel(private)
        self._taps[private] = index
        return former + add(private, index, self._pace)

    def expel(self, private: PrivateAddress) -> str:
        """Return the transaction that ends it, empty when it never began."""
        if self._taps is None or self._taps.pop(private, None) is None:
            return ""
        return delete(private)


def _ends(private: PrivateAddress) -> str:
    """Return what the addresses between hosts have, from a machine's network to it."""
    sender = mesh_rules.sender(private.network_number)
    return f"{sender} . {private.between_hosts}"


def _chain(private: PrivateAddress) -> str:
    return f"machine{private.slot}"


_TABLE = """\
{drop}\
table netdev godwit {{
    map machines {{ type ipv6_addr . ipv6_addr : verdict; }}
    counter paced_in {{ }}
    chain arrive {{
        type filter hook ingress device "{device}" priority filter; policy accept;
        meta length > {mtu} meta l4proto != tcp accept
        ip6 hoplimit > 1 ip6 saddr & {mask} . ip6 daddr vmap @machines
    }}
}}
{machines}"""

_MACHINE = """\
add chain netdev godwit {chain} {{ {restore}; {paced}fwd ip6 to {own} device {index}; }}
add element netdev godwit machines {{ {ends} : goto {chain} }}
"""

_NO_MACHINE = """\
delete element netdev godwit machines {{ {ends} }}
delete chain netdev godwit {chain}
"""
