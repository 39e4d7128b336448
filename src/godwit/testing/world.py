"""A host as sets of things that exist, and how often each verb was asked.

`World` is what survives when the agent is killed; `FakeNetwork`, `FakeImages` and
`testing.vmm.FakeVmm` are one agent's hands on it and can be severed, as a kill does. Comparing
worlds shows what is left; counting what was asked shows what was done twice.
"""

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.agent import ports
from godwit.agent.judging import FREE, Judgement
from godwit.base import errors
from godwit.images import collection
from godwit.images.config import ImageConfig
from godwit.images.store import AtRest, LocalImage
from godwit.testing.guest_call import GuestCall
from godwit.wire import guest, guest_api, host_rpc, shim
from godwit.wire.secrets import HostSecrets


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
        unsuspendable: Its state cannot be saved.
    """

    outcome: str = "runs"
    boot_s: float = 1.0
    exit_after_s: float | None = None
    exit_code: int = 0
    ignores_stop: bool = False
    stop_s: float = 0.1
    unsuspendable: bool = False


@dataclass
class Vm:
    """A VM and its shim.

    Attributes:
        limit_mb: What the balloon was last told to leave the guest.
        paused: Its state is saved and it stands still.
        deaf: Its shim takes connections and answers nothing.
        calls: Who waits at its `/.fly/api`.
        files: What was put into it while it ran, by path.
        health: Of its containers' checks, by container; `passing` unless said.
        answers: What init was told of checks that the host asked.
    """

    plan: ports.VmPlan
    boot: Boot
    number: int
    phase: shim.Phase = "booting"
    started_at_ms: int | None = None
    exit: shim.ExitRecord | None = None
    signals: list[str] = field(default_factory=list)
    limit_mb: int | None = None
    paused: bool = False
    deaf: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    calls: asyncio.Queue[GuestCall] = field(default_factory=asyncio.Queue)
    files: dict[str, str] = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    answers: list[ports.Answer] = field(default_factory=list)

    def tell(self) -> None:
        """Wake everybody who waits for a change."""
        told, self.changed = self.changed, asyncio.Event()
        told.set()


@dataclass(frozen=True)
class Saved:
    """A suspended VM.

    Attributes:
        disk: Which content of the scratch disk it belongs to.
        usable: Whether this host's VMM can still load it.
    """

    plan: ports.VmPlan
    boot: Boot
    disk: int
    usable: bool = True


@dataclass
class World:
    """Everything that exists on a host beside the agent's database.

    Attributes:
        tokens: Pull tokens that control gives out, by machine.
        secrets: What control gives out as their newest secrets, by machine.
        guests_asked: What processes in machines asked of control.
        no_oidc: Why control has no OIDC tokens; empty when it has.
        deeds: What control heard of machines' doings to themselves.
        pulled_with: Tokens images were asked for with.
        vms: Shims that run, by machine.
        exits: exit.json, by machine.
        prepared: Machines with a scratch disk and a run spec.
        disks: What each scratch disk holds, as a number: another one after every boot.
        roots: Which scratch disk each machine has, as a number: another one when it is made anew.
        roots_made: Every scratch disk that each machine has had, in their order.
        saved: Suspended VMs, by machine.
        halted: Machines whose VMM somebody stopped by a signal.
        ran_out: Machines whose VMM the kernel killed for want of memory.
        directories: Machines with a directory.
        policy: Whether the packet policy stands.
        asked: How often each verb was asked, also `verb:machine`.
        trace: The verbs in order.
        faults: Errors to raise, by verb: the next one each time it is asked.
        scripts: What the next boots of a machine do.
        output: What each machine wrote.
        lies: What must never have happened, in words.
    """

    images: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, HostSecrets] = field(default_factory=dict)
    guests_asked: list[guest_api.GuestRequest] = field(default_factory=list)
    no_oidc: str = ""
    deeds: list[guest_api.Deed] = field(default_factory=list)
    pulled_with: list[str | None] = field(default_factory=list)
    taps: set[int] = field(default_factory=set)
    judged: dict[int, Judgement] = field(default_factory=dict)
    policy: bool = True
    vms: dict[str, Vm] = field(default_factory=dict)
    exits: dict[str, shim.ExitRecord] = field(default_factory=dict)
    prepared: dict[str, ports.VmPlan] = field(default_factory=dict)
    disks: dict[str, int] = field(default_factory=dict)
    roots: dict[str, int] = field(default_factory=dict)
    roots_made: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    saved: dict[str, Saved] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)
    ran_out: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    faults: dict[str, deque[BaseException]] = field(default_factory=lambda: defaultdict(deque))
    scripts: dict[str, deque[Boot]] = field(default_factory=lambda: defaultdict(deque))
    log: list[tuple[str, str]] = field(default_factory=list)
    output: dict[str, list[str]] = field(default_factory=dict)
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
            "saved": sorted(self.saved),
        }

    def running(self, machine_id: str) -> bool:
        """Tell whether the machine's process runs."""
        vm = self.vms.get(machine_id)
        return vm is not None and vm.phase == "running" and not vm.paused


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

    async def last_words(self, machine_id: str, since_ms: int) -> tuple[str, ...]:
        """Return what a machine wrote (`LastWords` of `agent.machines.work`)."""
        del since_ms
        self.check()
        return tuple(self.world.output.get(machine_id, ()))


class FakeControl:
    """Control as a host asks it: gives out `tokens` and `secrets`, and knows no others."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def pull_token(self, machine_id: str, reference: str) -> str | None:
        """Return the machine's token."""
        await self._hands.ask("control.pull_token", machine_id)
        if machine_id not in self._hands.world.tokens:
            raise errors.Failure("not_found", f"no machine {machine_id}, nothing of {reference}")
        return self._hands.world.tokens[machine_id]

    async def guest_request(
        self, request: guest_api.GuestRequest, timeout_s: float
    ) -> guest_api.GuestAnswer:
        """Take note of the request; say what was asked."""
        del timeout_s
        await self._hands.ask("control.guest_request", request.machine_id)
        self._hands.world.guests_asked.append(request)
        if request.target == "/v1/tokens/oidc" and b"amazonaws" in request.body:
            refusal = self._hands.world.no_oidc
            if refusal:
                return guest_api.said(412, json.dumps({"error": refusal}))
            token = f"token {len(self._hands.world.guests_asked)}"
            return guest_api.answer(200, (("content-type", "text/plain"),), token.encode())
        return guest_api.said(200, json.dumps({"asked": f"{request.method} {request.target}"}))

    async def secrets(self, machine_id: str) -> HostSecrets | None:
        """Return the machine's secrets."""
        await self._hands.ask("control.secrets", machine_id)
        return self._hands.world.secrets.get(machine_id)

    async def deed(self, deed: guest_api.Deed) -> None:
        """Take note of the deed."""
        await self._hands.ask("control.deed", deed.machine_id)
        self._hands.world.deeds.append(deed)


class FakeImages:
    """Images that are there as soon as they are asked for."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def ensure(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        """Return the image."""
        self._hands.world.pulled_with.append(token)
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

    def at_rest(self) -> tuple[AtRest, ...]:
        """Return every image, each a byte long, last used at the beginning of time."""
        return tuple(
            AtRest(
                LocalImage(
                    digest, Path("/images") / digest, self._hands.world.image_config, size_bytes=1
                ),
                names=frozenset({digest}),
                reference=digest,
                used_at_ms=0,
            )
            for digest in sorted(self._hands.world.images)
        )

    def note_use(self, digest: str) -> None:
        """Forget it: every image was last used at the beginning of time."""

    def space(self) -> collection.Space:
        """Return a disk that is half full."""
        return collection.Space(total_bytes=2, free_bytes=1)

    async def remove(self, digest: str, *, unless: Callable[[], bool]) -> bool:
        """Forget an image, unless the question is answered with yes."""
        await self._hands.ask("images.remove")
        if unless():
            return False
        self._hands.world.images.discard(digest)
        return True

    def when_full(self, make_room: Callable[[], Awaitable[None]]) -> None:
        """Never be full."""


class FakeNetwork:
    """Taps as a set of slots."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._judgement: ports.JudgementOf = lambda _: FREE

    async def start(self) -> None:
        """Count it; the machines that are plumbed are judged anew."""
        await self._hands.ask("network.start")
        world = self._hands.world
        world.policy = True
        world.judged = {slot: self._judgement(slot) for slot in world.taps}

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

    def public_ip(self) -> str:
        """Return an address of the documentation's."""
        return "2001:db8::1"

    def guest_network(self, plumbing: ports.Plumbing) -> guest.Network:
        """Return what init is told."""
        return guest.Network(
            addresses=(guest.Address(address=self.private_ip(plumbing), prefix=128),)
        )

    async def plumb(self, plumbing: ports.Plumbing) -> None:
        """Ensure the tap."""
        await self._hands.ask("network.plumb", plumbing.machine_id)
        self._hands.world.taps.add(plumbing.slot)
        self._hands.world.judged[plumbing.slot] = self._judgement(plumbing.slot)

    async def unplumb(self, plumbing: ports.Plumbing) -> None:
        """Ensure there is no tap."""
        await self._hands.ask("network.unplumb", plumbing.machine_id)
        self._hands.world.taps.discard(plumbing.slot)
        self._hands.world.judged.pop(plumbing.slot, None)

    async def observed(self) -> frozenset[int]:
        """Return the slots that have a tap."""
        await self._hands.ask("network.observed")
        return frozenset(self._hands.world.taps)

    def judge_by(self, judgement: ports.JudgementOf) -> None:
        """Ask by this from now on."""
        self._judgement = judgement

    async def judge(self, slot: int) -> None:
        """Write down what a plumbed machine is allowed."""
        await self._hands.ask("network.judge")
        if slot in self._hands.world.taps:
            self._hands.world.judged[slot] = self._judgement(slot)

    async def intact(self) -> bool:
        """Tell whether the policy stands."""
        await self._hands.ask("network.intact")
        return self._hands.world.policy
