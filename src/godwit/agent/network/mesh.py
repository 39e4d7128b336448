"""Keeps this host in the mesh: the interface, its peers, and which hosts the policy lets through.

One per agent. Told the other hosts by `follow`; from then on `run` holds the interface to it:
at once when something changed or the daemon ended, and now and then in any case. Without other
hosts there is no interface at all. Nothing here is needed for packets to go on: the agent may die.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.agent.network import mesh_rules, peers
from godwit.agent.network.mesh_device import DEFAULT_PORT, MeshDevice, device_name
from godwit.agent.network.mesh_keys import MeshKeys
from godwit.base import clock, errors, processes, tasks

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 15.0
_LOOK_WHILE_CHANGING_S = 0.2
_SHORTEST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
NOTICE_S = 30.0

Reach = Callable[[mesh_rules.Mesh | None], Awaitable[None]]
"""Tells the packet policy which hosts there are; `None` for none."""

TellEndpoints = Callable[[tuple[str, ...]], Awaitable[None]]
"""Tells where this host is to be looked for."""

TellKeys = Callable[[str, str], Awaitable[None]]
"""Tells by which key this host is to be known in the mesh, and by which one next."""


def rules_of(
    host_number: int, members: Iterable[peers.Peer], port: int = DEFAULT_PORT
) -> mesh_rules.Mesh | None:
    """Return what the packet policy of a host is to know of its mesh.

    Args:
        host_number: The host's.
        members: All hosts there are.
        port: Where the host's WireGuard listens.
    """
    others, _ = peers.usable(members, host_number)
    if not others:
        return None
    return mesh_rules.Mesh(device_name(host_number), host_number, frozenset(others), port)


@dataclass(frozen=True)
class Report:
    """How one host of the mesh is reached.

    Attributes:
        name: What people call it.
        endpoint: Where packets to it go now; empty when that is not known.
        handshake_s: Unix time of the last handshake; 0 for never.
        received: Bytes; `sent` likewise.
        silent: Nothing has been heard of it lately.
    """

    host_number: int
    name: str
    public_key: str
    endpoint: str
    handshake_s: int
    received: int
    sent: int
    silent: bool


@dataclass
class _Memory:
    """What the device forgets with its daemon.

    Attributes:
        given: The endpoints of each host's record when the device was told of it.
        seen: Where each peer was, by key.
    """

    given: dict[int, tuple[str, ...]] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)


class Mesh:
    """This host's part of the mesh."""

    def __init__(
        self,
        device: MeshDevice,
        reach: Reach,
        the_clock: clock.Clock,
        *,
        remembered_in: Path,
        notice_s: float = NOTICE_S,
    ) -> None:
        """Take what acts.

        Args:
            device: The interface.
            reach: Tells the packet policy.
            the_clock: Time.
            remembered_in: A file in the run directory.
            notice_s: How long all hosts may take to hear of a key before it is used.
        """
        self._device = device
        self._number = device.config.host_number
        self._reach = reach
        self._clock = the_clock
        self._notice_s = notice_s
        self._file = remembered_in
        self._memory = _load(remembered_in)
        self._keys = MeshKeys(device.config.private_key)
        self._told = False
        self._wanted: dict[int, peers.Peer] = {}
        self._own: peers.Peer | None = None
        self._noticed_at: float | None = None
        self._changed = asyncio.Event()
        self._settling = asyncio.Lock()

    def follow(self, members: Iterable[peers.Peer]) -> None:
        """Take note of all hosts there are, this one included; `run` acts on it."""
        listed = list(members)
        found, complaints = peers.usable(listed, self._number)
        own = next((each for each in listed if each.host_number == self._number), None)
        if self._told and (found, own) == (self._wanted, self._own):
            return
        for complaint in complaints:
            logger.error("%s", complaint)
        self._told = True
        self._wanted, self._own = found, own
        self._changed.set()

    async def run(self) -> None:
        """Keep it so, for ever."""
        pause_s = _LOOK_WHILE_CHANGING_S
        while True:
            self._changed.clear()
            try:
                await self.settle()
            except (OSError, errors.Failure, processes.ProgramFailed, ValueError) as error:
                logger.warning("mesh: %s; again in %.1f s", error, pause_s)
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _LOOK_WHILE_CHANGING_S
            settled = self._clock.monotonic()
            await self._something()
            if self._clock.monotonic() - settled < _SHORTEST_PAUSE_S:
                # A daemon that ends as soon as it is started, or many members one by one.
                await self._clock.sleep(_SHORTEST_PAUSE_S)

    async def settle(self) -> None:
        """Make device and policy as they should be, now.

        Raises:
            ProgramFailed: They cannot be made so; Failure and OSError likewise.
        """
        async with self._settling:
            await self._settle()

    async def _settle(self) -> None:
        if not self._told:
            # Nobody has said that there are no others: what is there stays.
            return
        if not self._wanted:
            await self._reach(None)
            await self._device.remove()
            return
        await self._device.ensure()
        self._change_key()
        seen = await self._device.look()
        rekeyed = seen.public_key not in ("", self._keys.public)
        port = self._device.config.port
        told = seen.public_key, seen.port, seen.mark
        if told != (self._keys.public, port, mesh_rules.MARK):
            await self._device.tell_key()
        changes = peers.plan(
            seen, self._wanted.values(), self._memory.given, self._now_s(), self._memory.seen
        )
        await self._device.tell(changes)
        if rekeyed:
            # They learn of it by this host's next handshake, which only a packet brings about.
            await self._device.greet(peer.public_key for peer in self._wanted.values())
        await self._reach(rules_of(self._number, self._wanted.values(), port))
        self._remember(seen)

    async def announce(self, tell: TellKeys, renew_after_s: float) -> None:
        """Ensure that all are told by which keys to know this host; to be done now and then.

        A host that is alone has nobody to tell.

        Args:
            tell: Tells control, which tells everybody.
            renew_after_s: A key that is older is changed; 0 for never.
        """
        if not self._wanted or self._own is None:
            return
        if renew_after_s and self._keys.age_s(self._now_s()) > renew_after_s:
            self._keys.prepare()
        keys = (self._keys.public, self._keys.next_public)
        if keys != (self._own.public_key, self._own.next_key):
            await tell(*keys)

    async def announce_endpoints(self, tell: TellEndpoints, endpoints: tuple[str, ...]) -> None:
        """Ensure that all look for this host where it says; to be done now and then.

        Args:
            tell: Tells control, which tells everybody.
            endpoints: None where what was said when the host joined still holds.
        """
        if endpoints and self._own is not None and endpoints != self._own.endpoints:
            await tell(endpoints)

    async def report(self) -> tuple[Report, ...]:
        """Return how each other host is reached, in the order of their numbers.

        Raises:
            ProgramFailed: The device cannot be asked.
        """
        if not self._wanted or not self._device.exists():
            return ()
        return report(await self._device.look(), self._wanted.values(), self._now_s())

    def _now_s(self) -> float:
        return self._clock.now_ms() / 1_000

    async def _something(self) -> None:
        """Return when there may be something to do."""
        async with tasks.Tasks("mesh") as watching:
            changed = watching.spawn(self._changed.wait(), name="changed")
            waits: set[asyncio.Task[Any]] = {changed}
            if self._wanted:
                waits.add(watching.spawn(self._device.ended(), name="ended"))
            await asyncio.wait(waits, timeout=self._pause_s(), return_when=asyncio.FIRST_COMPLETED)

    def _pause_s(self) -> float:
        changing = self._keys.next_public or peers.changing(self._wanted.values())
        return _LOOK_WHILE_CHANGING_S if changing else _LOOK_EVERY_S

    def _change_key(self) -> None:
        """Take the next key once all have known it for a while."""
        following = self._keys.next_public
        if not following or self._own is None or self._own.next_key != following:
            self._noticed_at = None
            return
        now = self._clock.monotonic()
        if self._noticed_at is None:
            self._noticed_at = now
        if now - self._noticed_at >= self._notice_s:
            self._keys.switch()
            self._noticed_at = None
            logger.info("this host has the key %s in the mesh from now on", following)

    def _remember(self, seen: peers.Device) -> None:
        memory = _Memory(
            given={number: peer.endpoints for number, peer in self._wanted.items()},
            seen={key: peer.endpoint for key, peer in seen.peers.items() if peer.endpoint},
        )
        memory.seen = {**self._memory.seen, **memory.seen}
        known = {key for peer in self._wanted.values() for key in peer.keys}
        memory.seen = {key: where for key, where in memory.seen.items() if key in known}
        if memory != self._memory:
            _store(self._file, memory)
            self._memory = memory


def report(device: peers.Device, others: Iterable[peers.Peer], now_s: float) -> tuple[Report, ...]:
    """Return how hosts are reached, in the order of their numbers."""
    ordered = sorted(others, key=lambda peer: peer.host_number)
    return tuple(_report(device, peer, now_s) for peer in ordered)


def _report(device: peers.Device, peer: peers.Peer, now_s: float) -> Report:
    key = peers.active_key(device, peer)
    seen = device.peers.get(key, peers.Seen())
    return Report(
        host_number=peer.host_number,
        name=peer.name,
        public_key=key,
        endpoint=seen.endpoint,
        handshake_s=seen.handshake_s,
        received=seen.received,
        sent=seen.sent,
        silent=seen.silent(now_s),
    )


def _load(path: Path) -> _Memory:
    try:
        document = json.loads(path.read_text())
        given = {int(number): tuple(listed) for number, listed in document["given"].items()}
        return _Memory(given, dict(document["seen"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Nothing is lost but a few seconds, until peers are heard again.
        return _Memory()


def _store(path: Path, memory: _Memory) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"v": 1, "given": memory.given, "seen": memory.seen}))
    new.replace(path)
