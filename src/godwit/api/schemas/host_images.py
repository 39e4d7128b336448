"""Images at rest on hosts, and what an organization takes of disks."""

from typing import Literal

from godwit.api.schemas.common import Out
from godwit.api.schemas.orgs import Org
from godwit.base import clock
from godwit.control import records
from godwit.control.disk import DiskUsage
from godwit.wire import host_images


class HostImage(Out):
    """One image on a host; `held` says what keeps it, empty when nothing does."""

    digest: str
    reference: str
    size_bytes: int
    used_at: str
    machines: int
    held: Literal["in use", "pinned", "fresh", ""]


class HostImages(Out):
    """The images of a host, the longest unused first."""

    images: list[HostImage]
    total_bytes: int
    free_bytes: int
    pins_known: bool

    @classmethod
    def of(cls, found: host_images.Inventory) -> "HostImages":
        """Return an inventory as the API shows it."""
        return cls(
            images=[
                HostImage(
                    **one.model_dump(exclude={"used_at_ms"}),
                    used_at=clock.rfc3339(one.used_at_ms),
                )
                for one in found.images
            ],
            total_bytes=found.total_bytes,
            free_bytes=found.free_bytes,
            pins_known=found.pins_known,
        )


class RemovedImage(Out):
    """An image that went, and why."""

    digest: str
    size_bytes: int
    reason: str
    sentence: str


class PrunedImages(Out):
    """What was removed, or with `dry_run` would have been."""

    removed: list[RemovedImage]
    dry_run: bool

    @classmethod
    def of(cls, found: host_images.Pruned, *, dry_run: bool) -> "PrunedImages":
        """Return an outcome as the API shows it."""
        removed = [RemovedImage(**one.model_dump()) for one in found.removed]
        return cls(removed=removed, dry_run=dry_run)


class OrgDisk(Out):
    """What an organization takes of disks; hosts that are silent are missing."""

    registry_bytes: int
    registry_limit_bytes: int
    image_bytes: int
    machine_bytes: int
    silent_hosts: list[str]


class OrgShown(Org):
    """An organization and what it takes."""

    disk: OrgDisk

    @classmethod
    def shown(cls, org: records.Organization, usage: DiskUsage) -> "OrgShown":
        """Return an organization as the API shows it alone."""
        taken = OrgDisk(
            registry_bytes=usage.registry_bytes,
            registry_limit_bytes=usage.registry_limit_bytes,
            image_bytes=usage.image_bytes,
            machine_bytes=usage.machine_bytes,
            silent_hosts=list(usage.silent_hosts),
        )
        return cls(**Org.of(org).model_dump(), disk=taken)
