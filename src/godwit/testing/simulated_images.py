"""Images at rest on a simulated host: what releases pin, what is there, what goes."""

from collections.abc import Awaitable, Callable
from typing import Any

from godwit.wire import host_images
from godwit.wire.record import Record


class SimulatedImages:
    """The part of a host that keeps images.

    Attributes:
        pins: What it was last told that releases need.
        inventory: Its images.
        disk: What organizations take of its disk, by id.
    """

    def __init__(self) -> None:
        self.pins: host_images.Pins | None = None
        self.inventory = host_images.Inventory()
        self.disk: dict[str, host_images.DiskUsage] = {}

    def image_handlers(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """Return every verb and its handler."""
        return {
            "images.pin": self._pin,
            "images.list": self._images,
            "images.prune": self._prune,
            "disk.usage": self._disk,
        }

    async def _pin(self, body: dict[str, Any]) -> dict[str, Any]:
        self.pins = host_images.Pins.model_validate(body)
        return {}

    async def _images(self, body: dict[str, Any]) -> Record:
        del body
        return self.inventory

    async def _prune(self, body: dict[str, Any]) -> Record:
        goes = [one for one in self.inventory.images if not one.held]
        if not body.get("dry_run"):
            left = tuple(one for one in self.inventory.images if one.held)
            self.inventory = self.inventory.model_copy(update={"images": left})
        return host_images.Pruned(
            removed=tuple(
                host_images.Removed(
                    digest=one.digest,
                    size_bytes=one.size_bytes,
                    reason="old",
                    sentence="not used for 0 days",
                )
                for one in goes
            )
        )

    async def _disk(self, body: dict[str, Any]) -> Record:
        return self.disk.get(body["org_id"], host_images.DiskUsage())
