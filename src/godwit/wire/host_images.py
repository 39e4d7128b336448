"""Control to host about images and disk space: verbs beside those of `wire.host_rpc`.

    images.pin      Pins      → {}           which images releases may be rolled back to
    images.list     {}        → Inventory    what is at rest here, and what holds it
    images.prune    Prune     → Pruned       remove what nothing holds
    disk.usage      {org_id}  → DiskUsage    what one organization takes of this host's disk

All but `disk.usage` are for the platform and its operator: tenants share images.
"""

from typing import Literal

from godwit.wire.record import Record


class Pins(Record):
    """Replaces the pins a host holds; kept across its restarts.

    Attributes:
        digests: Images, or indexes that lead to them.
        references: As the user wrote them, where no digest is known: of those pulled by that
            reference, the last used is held.
    """

    v: int = 1
    digests: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


class HostImage(Record):
    """One image at rest.

    Attributes:
        machines: How many machines of this host have it.
        held: What keeps it; empty when the next need for space may take it.
    """

    digest: str
    reference: str
    size_bytes: int
    used_at_ms: int
    machines: int = 0
    held: Literal["in use", "pinned", "fresh", ""] = ""


class Inventory(Record):
    """What is at rest on a host.

    Attributes:
        pins_known: False until control has said which images releases need; until then nothing
            is removed.
    """

    v: int = 1
    images: tuple[HostImage, ...] = ()
    total_bytes: int = 0
    free_bytes: int = 0
    pins_known: bool = False


class Prune(Record):
    """Asks to remove every image that nothing holds, whatever its age."""

    dry_run: bool = False


class Removed(Record):
    """One image that went, and why."""

    digest: str
    size_bytes: int
    reason: Literal["old", "space"]
    sentence: str


class Pruned(Record):
    """What was removed, or with `dry_run` would have been."""

    v: int = 1
    removed: tuple[Removed, ...] = ()


class DiskUsage(Record):
    """What an organization takes of a host's disk.

    Attributes:
        image_bytes: Images of its machines; one that several organizations use counts for each.
        machine_bytes: Machines' own disks, snapshots and logs, as far as they are written.
    """

    v: int = 1
    image_bytes: int = 0
    machine_bytes: int = 0
