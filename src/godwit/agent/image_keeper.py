"""Lets go of images that nothing on this host needs: by age, by space, or when told.

Knows who uses an image (machines in whatever state, and versions on their way) and which ones
releases need (pins, told by control, kept in the agent's database). `images.collection` decides;
a removal asks again who uses the image at the moment it happens, so no machine loses its own.
Until control has told the pins once, nothing is removed: what this host does not know it keeps.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from godwit.agent import ports
from godwit.agent.machines import records, views
from godwit.agent.machines.registry import Machines
from godwit.base import errors
from godwit.base.clock import Clock
from godwit.base.principal import Principal
from godwit.images import collection
from godwit.images.store import AtRest
from godwit.wire import host_images, host_rpc
from godwit.wire.record import Record

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

_PINS = "image_pins"
_MOST_TOLD = 1_500
"""As many images fit into one message of the bus; those that go first are told."""


class ImageKeeper:
    """Keeps what is needed of one host's images.

    Args:
        images: What is at rest.
        machines: Who uses it.
        vmm: Where machines' directories are.
        clock: What time it is.
        rules: When an image goes.
    """

    def __init__(
        self,
        images: ports.Images,
        machines: Machines,
        vmm: ports.Vmm,
        clock: Clock,
        rules: collection.Rules | None = None,
    ) -> None:
        self._images = images
        self._machines = machines
        self._vmm = vmm
        self._clock = clock
        self._rules = rules or collection.Rules()
        self._pins: host_images.Pins | None = None
        self._collecting = asyncio.Lock()

    async def load(self) -> None:
        """Take the pins from where they are kept."""
        kept = await self._machines.store.fact(_PINS)
        if kept is not None:
            try:
                self._pins = host_images.Pins.model_validate_json(kept)
            except ValidationError:
                logger.warning("the kept pins cannot be read; nothing is removed without them")

    async def sweep(self) -> None:
        """Note what is in use, then remove what the rules let go."""
        in_use = self._users()
        for one in await asyncio.to_thread(self._images.at_rest):
            if _users_of(one, in_use):
                await asyncio.to_thread(self._images.note_use, one.image.digest)
        await self._collect(self._rules, dry_run=False)

    async def make_room(self) -> None:
        """Remove every image that nothing holds: the disk is full, and a pull waits."""
        await self._collect(self._at_once, dry_run=False)

    @property
    def _at_once(self) -> collection.Rules:
        return replace(self._rules, age_ms=0)

    async def _collect(
        self, rules: collection.Rules, *, dry_run: bool
    ) -> tuple[collection.Removal, ...]:
        if self._pins is None:
            return ()
        async with self._collecting:
            resting = await self._resting()
            space = self._images.space()
            plan = collection.plan(resting.values(), space, rules, self._clock.now_ms())
            if plan.short_bytes:
                logger.warning(
                    "the disk of the images is %.0f %% full, and every image left is needed",
                    space.used * 100,
                )
            if dry_run:
                return plan.removals
            return tuple([one for one in plan.removals if await self._remove(one, resting)])

    async def _remove(
        self, removal: collection.Removal, resting: Mapping[str, collection.Resting]
    ) -> bool:
        names = {name for name, one in resting.items() if one.digest == removal.digest}
        gone = await self._images.remove(
            removal.digest, unless=lambda: not names.isdisjoint(self._users())
        )
        if gone:
            logger.info("image %s is removed: %s", removal.digest, removal.sentence)
        return gone

    async def _resting(self) -> dict[str, collection.Resting]:
        """Return every image by each of its names."""
        in_use, found = self._users(), {}
        at_rest = await asyncio.to_thread(self._images.at_rest)
        pinned = _pinned(at_rest, self._pins)
        for one in at_rest:
            resting = collection.Resting(
                digest=one.image.digest,
                size_bytes=one.image.size_bytes,
                used_at_ms=one.used_at_ms,
                users=_users_of(one, in_use),
                pinned=one.image.digest in pinned,
            )
            found.update(dict.fromkeys(one.names, resting))
        return found

    def _users(self) -> Counter[str]:
        """Return how many machines have each image, or are about to."""
        used: Counter[str] = Counter()
        for driver in self._machines:
            used.update(_images_of(driver.machine, driver.snapshot))
        return used

    # -- requests -----------------------------------------------------------------------

    def handlers(self) -> Mapping[str, Any]:
        """Return every verb of `wire.host_images` and its handler."""
        return {
            "images.pin": self.pin,
            "images.list": self.list,
            "images.prune": self.prune,
            "disk.usage": self.usage,
        }

    async def pin(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Hold the images that releases need, and no others any longer."""
        _for_the_platform(who)
        pins = _parse(host_images.Pins, body)
        if pins != self._pins:
            await self._machines.store.set_fact(_PINS, pins.model_dump_json())
            self._pins = pins
        return {}

    async def list(self, who: Principal, body: dict[str, Any]) -> host_images.Inventory:
        """Return what is at rest, the longest unused first."""
        del body
        _for_the_platform(who)
        in_use, now_ms = self._users(), self._clock.now_ms()
        at_rest = await asyncio.to_thread(self._images.at_rest)
        resting = await self._resting()
        space = self._images.space()
        images = [
            host_images.HostImage(
                digest=one.image.digest,
                reference=one.reference,
                size_bytes=one.image.size_bytes,
                used_at_ms=one.used_at_ms,
                machines=_users_of(one, in_use),
                held=collection.hold(resting[one.image.digest], self._rules, now_ms),
            )
            for one in sorted(at_rest, key=lambda one: one.used_at_ms)
            if one.image.digest in resting
        ]
        return host_images.Inventory(
            images=tuple(images[:_MOST_TOLD]),
            total_bytes=space.total_bytes,
            free_bytes=space.free_bytes,
            pins_known=self._pins is not None,
        )

    async def prune(self, who: Principal, body: dict[str, Any]) -> host_images.Pruned:
        """Remove every image that nothing holds, whatever its age.

        Raises:
            Failure: `failed_precondition` while the pins are not known.
        """
        _for_the_platform(who)
        asked = _parse(host_images.Prune, body)
        if self._pins is None:
            raise errors.Failure(
                "failed_precondition",
                "this host has not been told yet which images releases need",
                hint="control tells it within minutes of its start; try again then",
            )
        removed = await self._collect(self._at_once, dry_run=asked.dry_run)
        return host_images.Pruned(
            removed=tuple(
                host_images.Removed(
                    digest=one.digest,
                    size_bytes=one.size_bytes,
                    reason=one.reason,
                    sentence=one.sentence,
                )
                for one in removed[:_MOST_TOLD]
            )
        )

    async def usage(self, who: Principal, body: dict[str, Any]) -> host_images.DiskUsage:
        """Return what an organization takes of this host's disk."""
        org_id = str(body.get("org_id", ""))
        who.require("orgs:read", org_id)
        names: Counter[str] = Counter()
        directories = []
        for driver in self._machines:
            if driver.machine.org_id == org_id:
                names.update(_images_of(driver.machine, driver.snapshot))
                logs = self._vmm.logs_directory(driver.machine.machine_id)
                directories.append(logs.parent)
        at_rest = await asyncio.to_thread(self._images.at_rest)
        return host_images.DiskUsage(
            image_bytes=sum(one.image.size_bytes for one in at_rest if _users_of(one, names)),
            machine_bytes=await asyncio.to_thread(_taken, directories),
        )


def _images_of(machine: records.Machine, snapshot: views.Snapshot) -> set[str]:
    """Return the digests a machine needs: of its version, and of the one on its way."""
    if machine.state == "destroyed":
        return set()
    digests = {image.digest for image in (machine.image, *machine.container_images)}
    if snapshot.run is not None and "update" in snapshot.run.input:
        update = host_rpc.Update.model_validate(snapshot.run.input["update"])
        digests |= {image.digest for image in (update.image, *update.container_images)}
    return digests


def _users_of(one: AtRest, used: Counter[str]) -> int:
    return sum(used[name] for name in one.names)


def _pinned(at_rest: Iterable[AtRest], pins: host_images.Pins | None) -> set[str]:
    """Return the digests that pins hold, those named by a reference alone included."""
    if pins is None:
        return {one.image.digest for one in at_rest}
    digests, wanted = frozenset(pins.digests), frozenset(pins.references)
    held = set()
    newest: dict[str, AtRest] = {}
    for one in at_rest:
        if not digests.isdisjoint(one.names):
            held.add(one.image.digest)
        if one.reference in wanted:
            known = newest.get(one.reference, one)
            newest[one.reference] = max(known, one, key=lambda each: each.used_at_ms)
    return held | {one.image.digest for one in newest.values()}


def _taken(directories: Iterable[Path]) -> int:
    """Return how much of the disk is written below some directories."""
    total = 0
    for directory in directories:
        for parent, _, files in os.walk(directory):
            for name in files:
                try:
                    total += (Path(parent) / name).lstat().st_blocks * 512
                except FileNotFoundError:
                    continue
    return total


def _for_the_platform(who: Principal) -> None:
    who.require("hosts:read")
    if who.org_ids is not None:
        raise errors.Failure("permission_denied", "only the operator sees a host's images")


def _parse(kind: type[R], body: dict[str, Any]) -> R:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise errors.invalid(str(error)) from error
