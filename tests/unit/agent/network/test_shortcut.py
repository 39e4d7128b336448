"""The short way from the mesh: its text is held to `golden/shortcut.nft`, its life to a fake nft.

After an intended change: `PYTHONPATH=. python tests/unit/agent/network/test_shortcut.py`.
"""

import asyncio
import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent import slots
from godwit.agent.network import mesh_rules, rules, shortcut
from godwit.agent.network.addresses import PrivateAddress
from godwit.base import processes
from tests.unit.agent.network.test_mesh_rules import header, rewrite

GOLDEN = Path(__file__).parent / "golden" / "shortcut.nft"
MESH = mesh_rules.Mesh("mesh10001", 65_537, frozenset({65_538}), 51_820)
MACHINES = [PrivateAddress(n, 65_537, slot) for n, slot in ((1, 5), (1, 6), (2, 7))]
TAPS = [(private, 40 + private.slot) for private in MACHINES]


def text() -> str:
    return shortcut.table(MESH, TAPS, mtu=1_420, pace=rules.limit(1_000))


def test_the_shortcut_is_what_was_reviewed():
    assert text() == GOLDEN.read_text()


def test_the_order_of_machines_does_not_matter():
    assert text() == shortcut.table(MESH, TAPS[::-1], mtu=1_420, pace=rules.limit(1_000))


def test_traffic_is_paced_only_where_a_rate_is_given():
    assert text().count("limit rate over 125000 kbytes/second") == len(TAPS)
    assert "limit rate" not in shortcut.table(MESH, TAPS, mtu=1_420, pace=rules.limit(0))


def test_adding_adds_what_the_table_would_hold():
    for private, index in TAPS:
        assert shortcut.add(private, index, rules.limit(1_000)) in text()


def test_what_is_deleted_is_what_was_added():
    named = [
        set(
            re.findall(
                r"chain netdev godwit (\w+)|element netdev godwit machines { (\S+ . \S+)", each
            )
        )
        for each in (shortcut.add(MACHINES[0], 9, ""), shortcut.delete(MACHINES[0]))
    ]
    assert named[0] == named[1]


numbers = st.integers(1, 2**32 - 1)


@given(numbers, numbers, numbers, numbers, st.integers(slots.FIRST_SLOT, slots.LAST_SLOT))
def test_only_a_sender_of_the_machines_own_network_is_let_through(one, other, here, there, slot):
    """What the rule compares, computed here from the two ends of a packet."""
    receiver = PrivateAddress(one, here, slot)
    held = re.findall(r"{ (\S+ \. \S+) : goto", shortcut.add(receiver, 9, ""))[0]
    mask = int(IPv6Address(mesh_rules.SENDER_NETWORK))

    def compared(network: int) -> str:
        source = PrivateAddress(network, there, slot).between_hosts
        return f"{IPv6Address(int(source) & mask)} . {receiver.between_hosts}"

    assert compared(one) == held
    assert (compared(other) == held) == (other == one)


@given(numbers, numbers, numbers, st.integers(slots.FIRST_SLOT, slots.LAST_SLOT))
def test_the_addresses_are_put_back_as_machines_know_them(network, here, there, slot):
    sender, receiver = PrivateAddress(network, there, 5), PrivateAddress(network, here, slot)
    arrived = header(sender.between_hosts, receiver.between_hosts)
    assert rewrite(arrived, shortcut.restoring(receiver)) == header(
        sender.address, receiver.address
    )


@dataclass
class Kernel:
    """Interfaces, and an nft that notes what it is told."""

    interfaces: dict[str, int] = field(default_factory=lambda: {"mesh10001": 30, "gw5": 45})
    told: list[str] = field(default_factory=list)
    refuses: str = ""

    async def nft(self, transaction: str) -> None:
        self.told.append(transaction)
        if self.refuses and self.refuses in transaction:
            raise processes.ProgramFailed(["nft"], "exit 1", "Could not process rule")

    def index(self, name: str) -> int:
        return self.interfaces.get(name, 0)

    def begun(self) -> shortcut.Shortcut:
        return shortcut.Shortcut(self.nft, mtu=1_420, pace="", index=self.index)

    def laid(self, machines: list[PrivateAddress]) -> shortcut.Shortcut:
        made = self.begun()
        asyncio.run(made.lay(MESH, machines))
        self.told.clear()
        return made


def test_it_leads_to_those_machines_that_have_a_tap():
    kernel = Kernel()
    asyncio.run(kernel.begun().lay(MESH, MACHINES))
    assert kernel.told == [shortcut.table(MESH, [(MACHINES[0], 45)], mtu=1_420, pace="")]


def test_it_is_laid_once_for_an_interface_and_again_for_another():
    kernel = Kernel()
    made = kernel.laid([])
    asyncio.run(made.lay(MESH, []))
    assert kernel.told == []
    kernel.interfaces["mesh10001"] = 31
    asyncio.run(made.lay(MESH, []))
    assert len(kernel.told) == 1


def test_without_an_interface_what_an_earlier_process_left_is_removed_once():
    kernel = Kernel(interfaces={})
    made = kernel.begun()
    for mesh in (MESH, None, None):
        asyncio.run(made.lay(mesh, MACHINES))
    assert kernel.told == [shortcut.remove()]


def test_a_kernel_that_cannot_do_it_is_asked_once():
    kernel = Kernel(refuses="fwd")
    made = kernel.begun()
    for _ in range(2):
        asyncio.run(made.lay(MESH, MACHINES))
    assert len(kernel.told) == 1
    assert made.admit(MACHINES[0]) == ""
    assert made.expel(MACHINES[0]) == ""


def test_a_kernel_without_the_family_has_nothing_to_remove():
    kernel = Kernel(refuses="netdev")
    asyncio.run(kernel.begun().close())
    assert kernel.told == [shortcut.remove()]


def test_a_machine_is_added_once_and_anew_when_its_tap_is_another():
    kernel = Kernel()
    made, machine = kernel.laid([]), MACHINES[0]
    assert made.admit(machine) == shortcut.add(machine, 45, "")
    assert made.admit(machine) == ""
    kernel.interfaces["gw5"] = 46
    assert made.admit(machine) == shortcut.delete(machine) + shortcut.add(machine, 46, "")


def test_only_what_was_added_is_deleted():
    made = Kernel().laid(MACHINES[:1])
    assert made.expel(MACHINES[1]) == ""
    assert made.expel(MACHINES[0]) == shortcut.delete(MACHINES[0])
    assert made.expel(MACHINES[0]) == ""


@pytest.mark.parametrize("closed", [True, False])
def test_what_was_closed_is_laid_again(closed):
    kernel = Kernel()
    made = kernel.laid(MACHINES[:1])
    if closed:
        asyncio.run(made.close())
        assert made.admit(MACHINES[0]) == ""
        kernel.told.clear()
    asyncio.run(made.lay(MESH, MACHINES[:1]))
    assert bool(kernel.told) == closed


if __name__ == "__main__":
    GOLDEN.write_text(text())
