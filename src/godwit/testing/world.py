"""A host as sets of things that exist, and how often each verb was asked.

`World` is what survives when the agent is killed; `FakeNetwork`, `FakeImages` and
`testing.vmm.FakeVmm` are one agent's hands on it and can be severed, as a kill does. Comparing
worlds shows what is left; counting what was asked shows what was done twice.
"""

import asyncio
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.agent import ports
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.images.store import LocalImage
from godwit.wire import guest, host_rpc, shim


class Killed(BaseException):
    """The agent was killed here. Not an `Exception`: nothing may catch it."""


@dataclass
class Boot:
    """What one boot of a machine will do.

    Attributes:
        outcome: `runs`; `dies` before the process; `hangs` (no process, ever); `refuses` (init
            cannot start the process).
        boot_s: From spawn to the process.
        exit_after_s: The process ends by itself; `None` runs until stopped.
        ignores_stop: Only a kill ends it.
    """

    outcome: str = "runs"
    boot_s: float = 1.0
    exit_after_s: float | None = None
    exit_code: int = 0
    ignores_stop: bool = False
    stop_s: float = 0.1


@dataclass
class Vm:
    """A VM and its shim."""

    plan: ports.VmPlan
    boot: Boot
    number: int
    phase: shim.Phase = "booting"
    started_at_ms: int | None = None
    exit: shim.ExitRecord | None = None
    signals: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake everybody who waits for a change."""
        told, self.changed = self.changed, asyncio.Event()
        told.set()


@dataclass
class World:
    """Everything that exists on a host beside the agent's database.

    Attributes:
        vms: Shims that run, by machine.
        exits: exit.json, by machine.
        prepared: Machines with a scratch disk and a run spec.
        directories: Machines with a directory.
        asked: How often each verb was asked, also `verb:machine`.
        trace: The verbs in order.
        faults: Errors to raise, by verb: the next one each time it is asked.
        scripts: What the next boots of a machine do.
        lies: What must never have happened, in words.
    """

    images: set[str] = field(default_factory=set)
    taps: set[int] = field(default_factory=set)
    vms: dict[str, Vm] = field(default_factory=dict)
    exits: dict[str, shim.ExitRecord] = field(default_factory=dict)
    prepared: dict[str, ports.VmPlan] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    faults: dict[str, deque[BaseException]] = field(default_factory=lambda: defaultdict(deque))
    scripts: dict[str, deque[Boot]] = field(default_factory=lambda: defaultdict(deque))
    log: list[tuple[str, str]] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)
    image_config: ImageConfig = field(
        default_factory=lambda: ImageConfig(cmd=("serve",), env=("PATH=/bin", "A=image"))
    )

    def remains(self) -> dict[str, Any]:
        """Return what exists of machines: all empty when nothing leaks."""
        return {
            "vms": sorted(self.vms),
            "taps": sorted(self.taps),
            "prepared": sorted(self.prepared),
        }

    def running(self, machine_id: str) -> bool:
        """Tell whether the machine's process runs."""
        vm = self.vms.get(machine_id)
        return vm is not None and vm.phase == "running"


class Hands:
    """One agent's access to the world.

    Attributes:
        severed: The agent is dead; whatever it still tries is cut off.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.severed = False

    async def ask(self, verb: str, machine_id: str = "") -> None:
        """Count a verb, raise the fault that was set for it, give others a turn."""
        self.check()
        self.world.asked[verb] += 1
        if machine_id:
            self.world.asked[f"{verb}:{machine_id}"] += 1
        self.world.trace.append(verb)
        await asyncio.sleep(0)
        self.check()
        if self.world.faults[verb]:
            raise self.world.faults[verb].popleft()

    def check(self) -> None:
        """Cut off a dead agent."""
        if self.severed:
            raise Killed

    def write(self, machine_id: str, text: str) -> None:
        """Take a line of the platform's (the `MachineLog` of `agent.machines.work`)."""
        self.world.log.append((machine_id, text))


class FakeImages:
    """Images that are there as soon as they are asked for."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def ensure(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        """Return the image."""
        del token
        await self._hands.ask("images.ensure")
        if image.digest.endswith("0" * 8):
            raise errors.Failure("manifest_unknown", f"no image {image.reference} in the registry")
        self._hands.world.images.add(image.digest)
        return LocalImage(
            digest=image.digest,
            path=Path("/images") / image.digest,
            config=self._hands.world.image_config,
            size_bytes=1,
        )

    def has(self, digest: str) -> bool:
        """Tell whether the image is here."""
        return digest in self._hands.world.images


class FakeNetwork:
    """Taps as a set of slots."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def start(self) -> None:
        """Count it."""
        await self._hands.ask("network.start")

    async def stop(self) -> None:
        """Remove every tap."""
        await self._hands.ask("network.stop")
        self._hands.world.taps.clear()

    def private_ip(self, plumbing: ports.Plumbing) -> str:
        """Return an address made of network and slot."""
        return f"fdaa::{plumbing.network_number:x}:{plumbing.slot:x}:2"

    def local_ipv4(self, plumbing: ports.Plumbing) -> str:
        """Return an address made of the slot."""
        return f"172.16.{plumbing.slot // 256 % 256}.{plumbing.slot % 256}"

    def guest_network(self, plumbing: ports.Plumbing) -> guest.Network:
        """Return what init is told."""
        return guest.Network(
            addresses=(guest.Address(address=self.private_ip(plumbing), prefix=128),)
        )

    async def plumb(self, plumbing: ports.Plumbing) -> None:
        """Ensure the tap."""
        await self._hands.ask("network.plumb", plumbing.machine_id)
        self._hands.world.taps.add(plumbing.slot)

    async def unplumb(self, plumbing: ports.Plumbing) -> None:
        """Ensure there is no tap."""
        await self._hands.ask("network.unplumb", plumbing.machine_id)
        self._hands.world.taps.discard(plumbing.slot)

    async def observed(self) -> frozenset[int]:
        """Return the slots that have a tap."""
        await self._hands.ask("network.observed")
        return frozenset(self._hands.world.taps)
