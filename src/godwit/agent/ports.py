"""What the agent's lifecycle needs from its host: ports, each with a real adapter.

`agent.machines` decides and calls these; `agent.network`, `agent.vmm` and `godwit.images`
implement them; `godwit.testing` holds the fakes. Every verb is idempotent and names what it
makes by the machine's id or slot, so a second run finds the first run's work.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from godwit.images import store
from godwit.wire import guest, host_rpc, shim

LocalImage = store.LocalImage


class Images(Protocol):
    """Images at rest on this host."""

    async def ensure(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        """Return the image, pulled and converted first if it is not here yet.

        Raises:
            Failure: `manifest_unknown`, `unavailable`, `invalid_argument` (wrong architecture,
                corrupt or hostile layer), `insufficient_capacity` (disk full).
        """

    def has(self, digest: str) -> bool:
        """Tell whether the image is here."""


@dataclass(frozen=True)
class Plumbing:
    """A machine's place in the network.

    Attributes:
        slot: 2..1,048,574; names the tap (`gw<slot>`), the uid, the local IPv4 and the 32
            machine bits of the 6PN address.
    """

    machine_id: str
    org_id: str
    network_id: str
    network_number: int
    slot: int

    @property
    def tap(self) -> str:
        """Return the name of the machine's tap."""
        return f"gw{self.slot}"


class Network(Protocol):
    """The host's side of machines' networks."""

    async def start(self) -> None:
        """Make what all machines share: nftables table, `fdaa::3`, forwarding, NAT."""

    async def stop(self) -> None:
        """Remove everything this host's Godwit ever made in the network."""

    def private_ip(self, plumbing: Plumbing) -> str:
        """Return the machine's 6PN address (spec/network.md §3.1)."""

    def local_ipv4(self, plumbing: Plumbing) -> str:
        """Return the IPv4 on which this host reaches the machine."""

    def guest_network(self, plumbing: Plumbing) -> guest.Network:
        """Return what init is told."""

    async def plumb(self, plumbing: Plumbing) -> None:
        """Ensure tap, routes and nftables elements."""

    async def unplumb(self, plumbing: Plumbing) -> None:
        """Ensure they are gone, established flows included."""

    async def observed(self) -> frozenset[int]:
        """Return the slots that have a tap."""


@dataclass(frozen=True)
class VmPlan:
    """All that is needed to boot one machine once."""

    machine_id: str
    instance_id: str
    org_id: str
    app_id: str
    slot: int
    tap: str
    resources: host_rpc.Resources
    image: Path
    scratch_bytes: int
    run_spec: guest.RunSpec


class ShimSession(Protocol):
    """A live connection to one machine's shim."""

    async def status(self) -> shim.Status:
        """Return what the shim knows now."""

    def changes(self) -> AsyncIterator[shim.Status]:
        """Yield the status now and at every change; ends when the shim is gone."""

    async def stop(self, signal: str, timeout_ms: int) -> None:
        """Ask the guest to stop; returns when the request is sent."""

    async def signal(self, signal: str) -> None:
        """Send a signal to the machine's main process."""

    async def kill(self) -> None:
        """End the VMM at once."""

    async def exec(
        self, request: host_rpc.ExecRequest, env: dict[str, str]
    ) -> host_rpc.ExecAnswer:
        """Run one command to its end.

        Raises:
            Failure: `deadline_exceeded`, `failed_precondition` (not running), `invalid_argument`
                (no such program or user).
        """

    async def stats(self) -> dict[str, object]:
        """Return the guest's memory, load, disk and network counters."""

    async def close(self) -> None:
        """Drop the connection; the machine is not touched."""


class Vmm(Protocol):
    """Virtual machines of this host, each behind its shim."""

    async def prepare(self, plan: VmPlan) -> None:
        """Ensure a fresh scratch disk, run.json and shim.json in the machine's directory."""

    async def spawn(self, plan: VmPlan) -> None:
        """Ensure the shim runs; returns when its socket answers."""

    async def connect(self, machine_id: str) -> ShimSession | None:
        """Return a session with the machine's shim, `None` when there is no shim."""

    async def exit_record(self, machine_id: str, instance_id: str) -> shim.ExitRecord | None:
        """Return how this boot ended, if the shim wrote it down."""

    async def discard(self, machine_id: str, slot: int) -> None:
        """Ensure no shim, VMM, cgroup, socket or scratch disk of it is left; logs stay."""

    async def forget(self, machine_id: str) -> None:
        """Remove the machine's directory, logs included."""

    async def observed(self) -> frozenset[str]:
        """Return the ids of machines whose shim runs."""

    def logs_directory(self, machine_id: str) -> Path:
        """Return where the shim keeps the machine's log files."""
