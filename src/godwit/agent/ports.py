"""What the agent's lifecycle needs from its host: ports, each with a real adapter.

`agent.machines` decides and calls these; `agent.network`, `agent.vmm` and `godwit.images`
implement them; `godwit.testing` holds the fakes. Every verb is idempotent and names what it
makes by the machine's id or slot, so a second run finds the first run's work.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

from godwit.agent.judging import Judgement
from godwit.images import collection, store
from godwit.wire import channel, guest, guest_api, host_rpc, shim
from godwit.wire.secrets import HostSecrets

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

    def at_rest(self) -> tuple[store.AtRest, ...]:
        """Return every image that is here; blocks for the disk."""

    def note_use(self, digest: str) -> None:
        """Write down that an image is used now; blocks for the disk."""

    def space(self) -> collection.Space:
        """Return how full the images' disk is."""

    async def remove(self, digest: str, *, unless: Callable[[], bool]) -> bool:
        """Ensure an image is gone, unless the last question is answered with yes."""

    def when_full(self, make_room: Callable[[], Awaitable[None]]) -> None:
        """Call for room before an image is refused because the disk is full."""


class Control(Protocol):
    """What this host may ask of control."""

    async def pull_token(self, machine_id: str, reference: str) -> str | None:
        """Return what opens an image's registry for a machine of this host, now.

        Raises:
            Failure: `unavailable`, `deadline_exceeded`, `not_found`, `permission_denied`.
        """

    async def guest_request(
        self, request: guest_api.GuestRequest, timeout_s: float
    ) -> guest_api.GuestAnswer:
        """Return the API's answer to what a machine's own process asked.

        Raises:
            Failure: As `pull_token`.
        """

    async def secrets(self, machine_id: str) -> HostSecrets | None:
        """Return the newest secrets of a machine's app, sealed for this host.

        Raises:
            Failure: As `pull_token`.
        """

    async def deed(self, deed: guest_api.Deed) -> None:
        """Have it written down what a machine of this host did to itself.

        Raises:
            Failure: As `pull_token`; it may be written down anyway, and is so once.
        """


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


JudgementOf = Callable[[int], Judgement]
"""Returns what network policies allow the machine in a slot; never fails."""


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

    def public_ip(self) -> str:
        """Return the address under which machines are seen outside, empty without a way out."""

    def guest_network(self, plumbing: Plumbing) -> guest.Network:
        """Return what init is told."""

    async def plumb(self, plumbing: Plumbing) -> None:
        """Ensure tap, routes and nftables elements."""

    async def unplumb(self, plumbing: Plumbing) -> None:
        """Ensure they are gone, established flows included."""

    def judge_by(self, judgement: JudgementOf) -> None:
        """Ask by this from now on what network policies allow the machine in a slot."""

    async def judge(self, slot: int) -> None:
        """Ensure that a machine which is plumbed is held to what it is allowed now."""

    async def observed(self) -> frozenset[int]:
        """Return the slots that have a tap."""

    async def intact(self) -> bool:
        """Tell whether the packet policy still stands; `start` makes it again."""


Kept = Literal["nothing", "root", "all"]
"""What stays of a VM that is discarded: its scratch disk, or that, its cache and saved state."""
FurtherDisk = Literal[
    "swap",
    "cache",
    "image1",
    "image2",
    "image3",
    "image4",
    "image5",
    "image6",
    "image7",
    "image8",
    "own1",
    "own2",
    "own3",
    "own4",
    "own5",
    "own6",
    "own7",
    "own8",
]
"""A disk beside root and scratch that some machines have.

Images are those of containers; all others are the machine's to write to. Each has a slot of its
own, but `own` ones, of containers' volumes, take those that images leave, from the last."""
IMAGE_DISKS: tuple[FurtherDisk, ...] = tuple(
    disk for disk in get_args(FurtherDisk) if disk.startswith("image")
)
OWN_DISKS: tuple[FurtherDisk, ...] = tuple(
    disk for disk in get_args(FurtherDisk) if disk.startswith("own")
)


@dataclass(frozen=True)
class Hardware:
    """What a VM is made as and cannot change while it lives: copies are of a VM made the same.

    Attributes:
        resources: With as much memory as it may ever have.
        disks: Those beside root and scratch.
        kernel_arguments: Beyond the platform's own.
        lasting_root: What the guest flushes to its scratch disk reaches the platter.
    """

    resources: host_rpc.Resources
    disks: tuple[FurtherDisk, ...] = ()
    kernel_arguments: tuple[str, ...] = ()
    lasting_root: bool = False

    @classmethod
    def of(
        cls,
        resources: host_rpc.Resources,
        *,
        swap_bytes: int = 0,
        cache_bytes: int = 0,
        images: int = 0,
        volumes: int = 0,
        kernel_arguments: tuple[str, ...] = (),
        lasting_root: bool = False,
    ) -> "Hardware":
        """Return what the VM of a machine with these resources is made as."""
        swap: tuple[FurtherDisk, ...] = ("swap",) if swap_bytes else ()
        cache: tuple[FurtherDisk, ...] = ("cache",) if cache_bytes else ()
        disks = (*swap, *cache, *IMAGE_DISKS[:images], *OWN_DISKS[:volumes])
        return cls(resources.grown, disks, kernel_arguments, lasting_root)


@dataclass(frozen=True)
class VmPlan:
    """All that is needed to boot one machine once.

    Attributes:
        swap_bytes: Size of its swap disk; 0 for none.
        cache_bytes: Size of its cache drive; 0 for none.
        images: Those of containers that are not the machine's own, in the order of their disks.
        volume_bytes: Sizes of containers' volumes that have a disk of their own, in their order.
        kernel_arguments: Beyond the platform's own.
        lasting_root: The scratch disk may outlive this boot: it has a journal, and is synced.
        keep_scratch: The scratch disk that is there stays: a cold boot that keeps the root.
        run_spec: What init is told; a machine that is resumed is told nothing.
        suspendable: It may be suspended without being asked again; its memory lies in a file of
            its own from the start.
    """

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
    swap_bytes: int = 0
    cache_bytes: int = 0
    images: tuple[Path, ...] = ()
    volume_bytes: tuple[int, ...] = ()
    kernel_arguments: tuple[str, ...] = ()
    lasting_root: bool = False
    keep_scratch: bool = False
    suspendable: bool = False

    @property
    def hardware(self) -> Hardware:
        """Return what its VM is made as."""
        return Hardware.of(
            self.resources,
            swap_bytes=self.swap_bytes,
            cache_bytes=self.cache_bytes,
            images=len(self.images),
            volumes=len(self.volume_bytes),
            kernel_arguments=self.kernel_arguments,
            lasting_root=self.lasting_root,
        )


class Window(NamedTuple):
    """The size of a terminal."""

    rows: int
    cols: int


class Chunk(NamedTuple):
    """Output as it came: `Kind.STDOUT` or `Kind.STDERR`, and its bytes."""

    kind: channel.Kind
    data: bytes


class Exit(NamedTuple):
    """How a command ended; `exit_code` is 128 + signal when a signal ended it."""

    exit_code: int
    signal: int | None


class ExecStream(Protocol):
    """A command that runs in a guest.

    Attributes:
        pieces: How many pieces of output have come.
    """

    pieces: int

    async def read(self) -> Chunk | None:
        """Return the next output, `None` at its end."""

    async def write(self, data: bytes) -> None:
        """Send bytes to its standard input, as fast as it takes them.

        Raises:
            ConnectionError: It has ended, or the shim is gone.
        """

    async def write_eof(self) -> None:
        """Tell it that its input is at an end."""

    async def resize(self, window: Window) -> None:
        """Change the size of its terminal."""

    async def wait(self) -> Exit:
        """Return how it ended.

        Raises:
            ConnectionError: The shim is gone.
        """

    async def close(self, *, within_s: float = 5.0) -> None:
        """End it if it still runs; what it has yet to say is thrown away."""


class Answer(NamedTuple):
    """What a container answered that this host has asked: its run, and the check's place."""

    container: str
    run: int
    check: int
    well: bool
    output: str


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

    async def open_exec(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        *,
        user: str = "",
        working_directory: str = "/",
        tty: Window | None = None,
        container: str = "",
    ) -> ExecStream:
        """Start a command and return its streams, while it runs.

        Without a container it runs in the machine itself.

        Raises:
            Failure: `failed_precondition` (not running), `invalid_argument` (no such program or
                user).
        """

    async def accept(self, credit: int) -> ExecStream:
        """Return the next connection to the machine's `/.fly/api`, however long that takes.

        Its bytes are output and input of a command that is none; its end is the command's.

        Raises:
            Failure: The machine does not run, or shim or guest have no such socket.
            ConnectionError: The shim is gone.
        """

    async def answer(self, answer: Answer) -> None:
        """Have init count what one of its containers answered."""

    async def stats(self) -> dict[str, object]:
        """Return the guest's memory, load, disk and network counters."""

    async def ps(self) -> tuple[host_rpc.GuestProcess, ...]:
        """Return the guest's processes, at most a few hundred.

        Raises:
            Failure: `failed_precondition` (not running, or its init is too old to tell),
                `deadline_exceeded`.
        """

    async def close(self) -> None:
        """Drop the connection; the machine is not touched."""


class Vmm(Protocol):
    """Virtual machines of this host, each behind its shim."""

    async def prepare(self, plan: VmPlan) -> None:
        """Ensure a scratch disk in the machine's directory, and those for swap and cache it has.

        The scratch disk is a fresh one, unless the plan keeps the one that is there. A snapshot
        of an earlier life is gone afterwards: this boot makes it worthless.
        """

    async def await_turn(self, machine_id: str, org_id: str, hardware: Hardware) -> None:
        """Return once the machine may be spawned: few boot at once, so that each is up in time.

        The turn ends by itself when the guest is up, and with `discard`.
        """

    async def spawn(self, plan: VmPlan) -> None:
        """Ensure the shim runs; returns when its socket answers.

        The run spec may hold secrets: it reaches the shim in memory and never a disk.
        """

    async def connect(self, machine_id: str) -> ShimSession | None:
        """Return a session with the machine's shim, `None` when there is no shim."""

    async def exit_record(self, machine_id: str, instance_id: str) -> shim.ExitRecord | None:
        """Return how this boot ended, if the shim wrote it down."""

    async def suspend(self, machine_id: str, instance_id: str) -> None:
        """Ensure the machine's whole state is saved durably and its VM does not run on.

        Idempotent; the scratch disk stays, and it is no exit: there is no exit record of it. The
        shim may still be there afterwards: `discard` that keeps all ends it. Whatever it
        raises, the machine runs on as before.

        Raises:
            Failure: `failed_precondition` when it cannot be saved.
        """

    async def resume(self, plan: VmPlan) -> None:
        """Ensure shim and VM run on from the saved state; returns when its socket answers.

        The snapshot is spent by that: from the moment the VM writes to its disk it is none.

        Raises:
            Failure: `failed_precondition` when there is no usable snapshot (missing, of another
                version, VMM build or CPU); nothing of it is left running then.
        """

    async def has_snapshot(self, machine_id: str, instance_id: str) -> bool:
        """Tell whether a whole saved state of this version is here."""

    async def set_memory(self, machine_id: str, limit_mb: int) -> None:
        """Ensure the guest has that much memory, by its balloon.

        Raises:
            Failure: `failed_precondition` when it does not run or has no balloon.
        """

    async def reclaim(self, machine_id: str, amount_mb: int) -> int:
        """Take memory the guest can spare; return how much, in MB.

        Raises:
            Failure: `failed_precondition` when it does not run or has no balloon.
        """

    async def discard(self, machine_id: str, slot: int, *, keep: Kept = "nothing") -> None:
        """Ensure no shim, VMM, cgroup, socket or swap disk of it is left; logs stay.

        Scratch disk, cache drive and snapshot go too, unless they are kept.
        """

    async def forget(self, machine_id: str) -> None:
        """Remove the machine's directory, logs included."""

    async def observed(self) -> frozenset[str]:
        """Return the ids of machines whose shim runs."""

    async def ran_out(self, machine_id: str) -> bool:
        """Tell whether the host's kernel killed its VMM for want of memory; before `discard`."""

    async def halted(self) -> frozenset[str]:
        """Return the ids of machines of which somebody stopped the shim or the VMM (SIGSTOP)."""

    async def carry_on(self, machine_id: str) -> None:
        """Ensure that what somebody stopped of a machine goes on."""

    def logs_directory(self, machine_id: str) -> Path:
        """Return where the shim keeps the machine's log files."""
