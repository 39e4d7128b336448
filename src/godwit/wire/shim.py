"""Between agent and shim: the shim's configuration, its status, its exit record, its log lines.

The shim is started by the agent as `godwit-shim --config shim.json` in a session of its own and
lives until its VMM has ended. It listens on `socket`, speaking `wire.channel`; the agent may
connect several times, and each connection has its own exec streams. Rust twins are in
`rust/crates/wire/src/shim.rs`; golden examples in `contracts/golden/shim_*.json`.

Agent to shim, `type`:
    status {}; subscribe {} (status now and at every change of phase, until the connection ends);
    kill {} (end the VMM at once); sleep {} (have the guest fall silent, to be saved: status says
    `asleep`), wake {} (have it go on); and, passed on to the guest, stop, signal, stats {id},
    exec, exec_signal, resize, ping, accept, answer (see `wire.guest`); run {spec} when the shim
    was given none.
Shim to agent, `type`:
    status {…Status}; error {message, regarding, stream?}; and from the guest
    exec_started, exec_exited, exec_failed, stats, pong. STDOUT and STDERR frames on the
    connection's own streams.
"""

from typing import Literal

from pydantic import Field

from godwit.wire.guest_containers import Standing
from godwit.wire.record import Record

Phase = Literal["booting", "ready", "running", "exited"]
StartKind = Literal["cold", "warm", "resumed"]
"""How a guest came to run: a kernel booted, a copy of a template, its own saved state."""


class Vmm(Record):
    """How the VMM is started.

    Attributes:
        argv: Program and arguments. Descriptors in `inherit` keep their numbers.
        uid: User and group it runs under, without further groups or privileges.
        cgroup_procs: Files the VMM's pid is written to before it executes.
    """

    argv: tuple[str, ...]
    uid: int
    gid: int
    cgroup_procs: tuple[str, ...] = ()
    inherit: tuple[int, ...] = ()


class LogLimits(Record):
    """Bounds of one machine's log files and of the rate they are written at."""

    max_file_bytes: int = 5_242_880
    max_files: int = 4
    bytes_per_second: int = 1_048_576
    burst_bytes: int = 4_194_304
    max_line_bytes: int = 65_536


class ShimConfig(Record):
    """`shim.json`, written by the agent before it starts the shim.

    Attributes:
        directory: The machine's own directory, absolute; holds logs/, exit.json.
        socket: Where the agent reaches the shim.
        channel_socket: Unix socket of the VMM on which the guest's control port arrives; the
            VMM listens, the shim connects as soon as it is there.
        channel_port: Port the guest's init listens on, where that socket leads to several: it is
            a link to the socket of a VMM with vsock. `None` when the socket is the channel.
        console_pipe: The VMM's stdout and stderr carry the serial console; they are logged as
            `console` lines.
        run_spec: File with the `RunSpec` to send at hello: memory that the shim inherits, as
            /proc/self/fd/N, for it holds secrets. `None` waits for a `run` message.
        boot_deadline_ms: From VMM start to hello; past it the shim kills the VMM.
        start_kind: Unless it is `cold` the guest is woken, with fresh time and entropy, before
            anything else is said to it.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    org_id: str
    directory: str
    socket: str
    channel_socket: str
    channel_port: int | None = None
    run_spec: str | None
    boot_deadline_ms: int = 60_000
    start_kind: StartKind = "cold"
    vmm: Vmm
    log: LogLimits = LogLimits()


class GuestExit(Record):
    """How the machine's main process ended."""

    exit_code: int
    signal: int | None = None
    oom_killed: bool = False


class GuestFailure(Record):
    """Why init could not start the process: the stage it was in and a sentence."""

    stage: str
    message: str


class VmmExit(Record):
    """How the VMM process ended; exactly one is set."""

    exit_code: int | None = None
    signal: int | None = None


class ExitRecord(Record):
    """`exit.json`: written and synced by the shim before it tells anybody.

    Attributes:
        guest: Absent when the VMM ended without the guest reporting an exit.
        cause: `guest` the guest ended by itself, `killed` by a kill message, `boot_deadline`,
            `vmm` the VMM ended on its own.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    exited_at_ms: int
    start_kind: StartKind = "cold"
    cause: Literal["guest", "killed", "boot_deadline", "vmm"]
    guest: GuestExit | None = None
    failure: GuestFailure | None = None
    vmm: VmmExit


class Hello(Record):
    """What the guest's init said of itself; its boot id is known once its process runs."""

    v: int
    init_version: str
    kernel: str
    boot_id: str = ""


class Status(Record):
    """What the shim knows of its machine.

    Attributes:
        asleep: The guest was asked to sleep and has said its last word until it is woken.
        process_pid: Pid inside the guest of the main process, once it runs.
        started_at_ms: Host's Unix time at which `started` arrived.
        containers: What the machine's containers do now.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    shim_version: str
    shim_pid: int
    vmm_pid: int | None
    phase: Phase
    start_kind: StartKind = "cold"
    asleep: bool = False
    hello: Hello | None = None
    process_pid: int | None = None
    started_at_ms: int | None = None
    containers: tuple[Standing, ...] = ()
    dropped_log_bytes: int = 0
    exit: ExitRecord | None = None


class LogLine(Record):
    """A line of `logs/current.jsonl` (older: `logs/1.jsonl`, the newest of them, and so on).

    Attributes:
        t: Unix time in nanoseconds; strictly increasing within a machine: the cursor.
        s: Where it came from; `system` is the platform's own word.
        m: The text without its newline; bytes that are not UTF-8 replaced by U+FFFD.
    """

    t: int
    s: Literal["stdout", "stderr", "console", "system"]
    m: str = Field()
