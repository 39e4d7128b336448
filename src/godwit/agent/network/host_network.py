"""The host's side of machines' networks: taps, routes, packet policy. Implements `ports.Network`.

One per agent. The kernel is the memory: after a restart `start` reads back from the routes which
machines are plumbed and renders the policy with all of them in one transaction, so that no packet
of a running machine meets a missing rule. Two ways of acting only: `ip -batch` and `nft -f`, which
take 4 and 7 ms here; plumbing a machine is one of each.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

from godwit.agent import ports, slots
from godwit.agent.judging import FREE, Judgement
from godwit.agent.network import (
    addresses,
    links,
    mesh_device,
    mesh_rules,
    outbound,
    rules,
    shortcut,
    sysctls,
)
from godwit.agent.network.addresses import PrivateAddress
from godwit.base import clock, processes
from godwit.wire import guest

logger = logging.getLogger(__name__)

_TIMEOUT_S = 20.0
_THERE_ALREADY = b"File exists"
_NOTHING_DELETED = b"0 flow entries"
DEFAULT_MTU = 1420


class HostNetwork:
    """The network of this host's machines.

    Attributes:
        host_number: This host's 32 bits in every 6PN address.
    """

    def __init__(
        self,
        host_number: int,
        *,
        run_dir: Path,
        policy: rules.Policy | None = None,
        mtu: int = DEFAULT_MTU,
        mesh: mesh_rules.Mesh | None = None,
    ) -> None:
        """Take what differs from host to host.

        Args:
            host_number: From `host.json`.
            run_dir: Where the kernel parameters' former values are kept; emptied by a reboot.
            policy: The packet policy's parameters, the uplink among them.
            mtu: Of taps and guests: what the mesh between hosts carries.
            mesh: The other hosts as they are known at the start; `reach` tells of later ones.
        """
        self.host_number = host_number
        self._policy = policy or rules.Policy()
        self._mtu = mtu
        self._outbound = outbound.Outbound(
            self._policy.uplink, monotonic=clock.SystemClock().monotonic
        )
        self._parameters = sysctls.HostParameters(run_dir / "network-parameters.json")
        self._plumbed: dict[int, PrivateAddress] = {}
        self._judgement: ports.JudgementOf = lambda _: FREE
        self._judged: dict[int, Judgement] = {}
        self._mesh = mesh
        self._shortcut = shortcut.Shortcut(
            _nft, mtu=mtu, pace=rules.limit(self._policy.mbit_each_way)
        )
        self._nft = asyncio.Lock()

    async def start(self) -> None:
        """Make what all machines share; adopt the machines that are plumbed already."""
        self._parameters.ensure([*sysctls.keep_router_advertisements(), *links.HOST_SYSCTLS])
        async with self._nft:
            self._plumbed = {found.private.slot: found.private for found in await self._kernel()}
            self._judged = {slot: self._judgement(slot) for slot in self._plumbed}
            await self._apply(self._mesh)
            await self._shortcut.lay(self._mesh, self._unjudged(), anew=True)
        await _ip(links.host_commands())
        await _ensure(links.host_rules("add"))
        logger.info("network ready, %d machines plumbed", len(self._plumbed))

    async def intact(self) -> bool:
        """Tell whether the packet policy still stands; someone may have flushed the ruleset."""
        listed = await processes.run(
            ["nft", "list", "chain", "inet", rules.TABLE, "guard"],
            timeout_s=_TIMEOUT_S,
            check=False,
        )
        return listed.exit_code == 0

    async def stop(self) -> None:
        """Remove everything this host's Godwit ever made in the network."""
        left = await self.observed()
        await processes.run(
            ["ip", "link", "delete", "group", str(links.TAP_GROUP)],
            timeout_s=_TIMEOUT_S,
            check=False,
        )
        for slot in await self.observed():
            await _remove_tap(slots.tap_name(slot))
        await mesh_device.remove(mesh_device.device_name(self.host_number))
        await _cut_flows("ipv6", str(addresses.PRIVATE))
        for slot in left:
            await _cut_flows("ipv4", str(addresses.local_ipv4(slot)))
        await _nft(rules.remove())
        await self._shortcut.close()
        self._plumbed = {}
        self._judged = {}
        for command in links.host_leftovers():
            await processes.run(command, timeout_s=_TIMEOUT_S, check=False)
        self._parameters.restore()

    async def reach(self, mesh: mesh_rules.Mesh | None) -> None:
        """Ensure that machines reach those of just these other hosts.

        One host more or less is one element; only the first and the last change the rules.
        """
        async with self._nft:
            former = self._mesh
            if former is None or mesh is None:
                if former != mesh:
                    await self._apply(mesh)
            elif former != mesh:
                await _nft(_difference(former, mesh))
            self._mesh = mesh
            await self._shortcut.lay(mesh, self._unjudged())

    def judge_by(self, judgement: ports.JudgementOf) -> None:
        """Ask by this from now on what network policies allow the machine in a slot."""
        self._judgement = judgement

    async def judge(self, slot: int) -> None:
        """Ensure that a machine which is plumbed is held to what it is allowed now."""
        async with self._nft:
            private = self._plumbed.get(slot)
            if private is not None and self._judged.get(slot, FREE) != self._judgement(slot):
                await self._admit(private)

    def private_ip(self, plumbing: ports.Plumbing) -> str:
        """Return the machine's 6PN address."""
        return str(self._private(plumbing))

    def local_ipv4(self, plumbing: ports.Plumbing) -> str:
        """Return the IPv4 on which this host reaches the machine."""
        return str(addresses.local_ipv4(plumbing.slot))

    def public_ip(self) -> str:
        """Return the address under which machines are seen outside, empty without a way out."""
        return self._outbound.address()

    def guest_network(self, plumbing: ports.Plumbing) -> guest.Network:
        """Return what init is told."""
        return guest.Network(
            mtu=self._mtu,
            addresses=(
                guest.Address(address=self.private_ip(plumbing), prefix=128),
                guest.Address(address=self.local_ipv4(plumbing), prefix=32),
            ),
            gateway_v4=str(addresses.GATEWAY_V4),
            gateway_v6=str(addresses.GATEWAY_V6),
        )

    async def plumb(self, plumbing: ports.Plumbing) -> None:
        """Ensure tap, policy and routes, in the order in which nothing is ever open."""
        private = self._private(plumbing)
        former = self._plumbed.get(plumbing.slot)
        if former is not None and former != private:
            await self.unplumb(plumbing)
        slots.create_tap(plumbing.tap, self._policy.first_vm_uid + plumbing.slot)
        sysctls.set_all(links.tap_sysctls(plumbing.tap))
        async with self._nft:
            self._plumbed[plumbing.slot] = private
            await self._admit(private)
        await _ip(links.tap_commands(plumbing.tap, private, self._mtu))

    async def unplumb(self, plumbing: ports.Plumbing) -> None:
        """Ensure tap, routes and policy are gone, established flows included."""
        await _remove_tap(plumbing.tap)
        async with self._nft:
            private = self._plumbed.pop(plumbing.slot, None) or self._private(plumbing)
            still_used = any(other.network == private.network for other in self._plumbed.values())
            expelled = rules.expel(
                rules.guest(private, self._judged.get(plumbing.slot, FREE)),
                last_of_network=not still_used,
                in_mesh=self._mesh is not None,
            )
            await self._change(expelled, self._shortcut.expel(private))
            self._judged.pop(plumbing.slot, None)
        await _cut_flows("ipv6", str(private))
        await _cut_flows("ipv4", self.local_ipv4(plumbing))

    async def observed(self) -> frozenset[int]:
        """Return the slots that have a tap."""
        found = (links.slot_of(name) for _, name in socket.if_nameindex())
        return frozenset(slot for slot in found if slot is not None)

    def _private(self, plumbing: ports.Plumbing) -> PrivateAddress:
        return PrivateAddress(plumbing.network_number, self.host_number, plumbing.slot)

    async def _apply(self, mesh: mesh_rules.Mesh | None) -> None:
        guests = [
            rules.guest(private, self._judged.get(slot, FREE))
            for slot, private in self._plumbed.items()
        ]
        await _nft(rules.table(self._policy, guests, closed=self._closed(), mesh=mesh))

    async def _admit(self, private: PrivateAddress) -> None:
        """Let a machine's packets through, as far as it is allowed now."""
        former, wanted = self._judged.get(private.slot, FREE), self._judgement(private.slot)
        admitted = rules.admit(
            rules.guest(private, wanted), in_mesh=self._mesh is not None, former=former
        )
        # What is judged is tracked, which nothing is on the short way.
        short = self._shortcut.expel(private) if wanted else self._shortcut.admit(private)
        await self._change(admitted, short)
        self._judged[private.slot] = wanted

    def _unjudged(self) -> list[PrivateAddress]:
        found = self._plumbed.items()
        return [private for slot, private in found if not self._judged.get(slot)]

    async def _change(self, policy: str, short: str) -> None:
        """Change the policy, and with it the shortcut, which somebody may have removed."""
        try:
            await _nft(policy + short)
        except processes.ProgramFailed:
            if not short:
                raise
            await self._shortcut.close()
            await _nft(policy)

    def _closed(self) -> list[str]:
        """Return the families in which this host forwarded nothing before Godwit."""
        names = links.FORWARDING.items()
        return [family for family, name in names if self._parameters.was(name) == "0"]

    async def _kernel(self) -> list[links.PlumbedTap]:
        shown = await processes.run(
            ["ip", "-6", "-j", "route", "show", "proto", str(links.ROUTE_PROTOCOL)],
            timeout_s=_TIMEOUT_S,
        )
        return links.plumbed_taps(shown.stdout)


def _difference(former: mesh_rules.Mesh, mesh: mesh_rules.Mesh) -> str:
    """Return the transaction from one set of other hosts to another."""
    steps = (("delete", former.others - mesh.others), ("add", mesh.others - former.others))
    return "".join(
        mesh_rules.host_element(verb, rules.TABLE, number)
        for verb, numbers in steps
        for number in sorted(numbers)
    )


async def _remove_tap(tap: str) -> None:
    if not _exists(tap):
        return
    try:
        await _ip([f"link delete dev {tap}"])
    except processes.ProgramFailed:
        if _exists(tap):
            raise


def _exists(interface: str) -> bool:
    return any(name == interface for _, name in socket.if_nameindex())


async def _ip(commands: Sequence[str]) -> None:
    batch = "\n".join(commands) + "\n"
    await processes.run(["ip", "-batch", "-"], stdin=batch.encode(), timeout_s=_TIMEOUT_S)


async def _ensure(additions: Sequence[Sequence[str]]) -> None:
    """Run each of these, which fail where there is already what they add."""
    for addition in additions:
        added = await processes.run(addition, timeout_s=_TIMEOUT_S, check=False)
        if added.exit_code != 0 and _THERE_ALREADY not in added.stderr:
            raise processes.ProgramFailed(
                added.argv, f"exit {added.exit_code}", added.stderr.decode(errors="replace")
            )


async def _nft(transaction: str) -> None:
    await processes.run(["nft", "-f", "-"], stdin=transaction.encode(), timeout_s=_TIMEOUT_S)


async def _cut_flows(family: str, prefix: str) -> None:
    """Forget the flows from and to machines: a removed rule does not end what it once let in."""
    for end in ("--src", "--dst"):
        ended = await processes.run(
            ["conntrack", "-D", "-f", family, end, prefix], timeout_s=_TIMEOUT_S, check=False
        )
        if ended.exit_code != 0 and _NOTHING_DELETED not in ended.stderr:
            raise processes.ProgramFailed(
                ended.argv, f"exit {ended.exit_code}", ended.stderr.decode(errors="replace")
            )
