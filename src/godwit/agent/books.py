"""What this host has and what is promised: memory without overcommit, CPU with a stated one.

Owns the reservations; `machines.registry` takes and returns them, bids are made from them. Kept
in memory and rebuilt from the machines' records at start-up.
"""

from collections.abc import Callable
from dataclasses import dataclass

from godwit.agent import footprint
from godwit.base import errors
from godwit.wire import host_rpc

_IMAGE_HERE = 0.25
_SAME_APP = 0.5


@dataclass(frozen=True)
class Capacity:
    """What the host gives to machines.

    Attributes:
        memory_mb: All machines together, their VMMs' own memory included.
        cpus: Real ones.
        cpu_overcommit: Shared vCPUs per real CPU; a performance vCPU counts as a real one.
        overhead_mb: What a VMM and its shim take beside the guest's memory.
    """

    memory_mb: int
    cpus: int
    cpu_overcommit: float
    overhead_mb: int


class Books:
    """The host's reservations."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._held: dict[str, host_rpc.Resources] = {}

    @property
    def free_memory_mb(self) -> int:
        """Return what is left, never below 0."""
        taken = sum(map(self._memory, self._held.values()))
        return max(0, self.capacity.memory_mb - taken)

    @property
    def free_cpus(self) -> float:
        """Return the real CPUs left."""
        return max(0.0, self.capacity.cpus - sum(map(self._cpus, self._held.values())))

    def hold(self, machine_id: str, resources: host_rpc.Resources) -> None:
        """Reserve for a machine, in place of what it held before.

        Raises:
            Failure: `insufficient_capacity`, naming what is needed and what is there.
        """
        reasons = self.reasons(resources, machine_id)
        if reasons:
            raise errors.Failure(
                "insufficient_capacity",
                f"insufficient resources to create new machine: {'; '.join(reasons)}",
                hint="stop or shrink other machines, or add a host",
            )
        self._held[machine_id] = resources

    def hold_anyway(self, machine_id: str, resources: host_rpc.Resources) -> None:
        """Take in what a machine has already: after a restart of the agent."""
        self._held[machine_id] = resources

    def release(self, machine_id: str) -> None:
        """Give back what a machine held, if anything."""
        self._held.pop(machine_id, None)

    def reasons(self, resources: host_rpc.Resources, machine_id: str = "") -> tuple[str, ...]:
        """Return why a machine does not fit; empty when it does.

        A machine that grows is judged by its growth: what it held counts as free.
        """
        held = self._held.get(machine_id)
        free_mb = self.free_memory_mb + (self._memory(held) if held else 0)
        free_cpus = self.free_cpus + (self._cpus(held) if held else 0.0)
        needs_mb, needs_cpus = self._memory(resources), self._cpus(resources)
        found = []
        if needs_mb > free_mb:
            found.append(f"needs {needs_mb} MB, {free_mb} MB of {self.capacity.memory_mb} MB free")
        # A machine that ran before an upgrade keeps running: only growth is refused.
        if needs_cpus > free_cpus and not (held and needs_cpus <= self._cpus(held)):
            found.append(f"needs {needs_cpus:g} CPUs, {free_cpus:g} of {self.capacity.cpus} free")
        return tuple(found)

    def _memory(self, resources: host_rpc.Resources) -> int:
        return footprint.memory_mb(resources, self.capacity.overhead_mb)

    def _cpus(self, resources: host_rpc.Resources) -> float:
        share = 1.0 if resources.cpu_kind == "performance" else 1 / self.capacity.cpu_overcommit
        return resources.cpus * share


@dataclass(frozen=True)
class Bidder:
    """Makes this host's bids.

    Attributes:
        has_image: Whether an image is here already.
        machines_of: How many machines of an app are here.
    """

    host_id: str
    region: str
    zone: str
    books: Books
    has_image: Callable[[str], bool]
    machines_of: Callable[[str], int]

    def bid(self, request: host_rpc.BidRequest) -> host_rpc.Bid:
        """Answer what this host would say to a machine."""
        reasons = self.books.reasons(request.resources)
        free = self.books.free_memory_mb
        score = free / max(1, self.books.capacity.memory_mb)
        if self.has_image(request.image_digest):
            score += _IMAGE_HERE
        # An app's machines are spread over hosts.
        score -= _SAME_APP * self.machines_of(request.app_id)
        return host_rpc.Bid(
            host_id=self.host_id,
            region=self.region,
            zone=self.zone,
            fits=not reasons,
            reasons=reasons,
            score=round(score, 6),
            free_memory_mb=free,
        )
