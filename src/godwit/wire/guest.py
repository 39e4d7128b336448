"""What the host tells a machine's init, and what it hears back (control channel messages).

The Rust twins are in `rust/crates/wire/src/{run_spec,messages}.rs`; golden examples in
`contracts/golden/run_spec.json` and `contracts/golden/messages.json`.

Host to guest, `type`:
    run {spec}; stop {signal, timeout_ms}; signal {signal}; ping {id}; stats {id};
    exec {stream, argv, env, env_base64, user, working_directory, tty: {rows, cols} | null,
    container};
    exec_signal {stream, signal}; resize {stream, rows, cols};
    sleep {}; wake {clock_unix_ns, entropy_base64}; accept {stream, credit};
    answer {container, run, check, well, output}
Guest to host, `type`:
    hello {v, init_version, kernel, boot_id}; started {pid, at_ms, boot_id};
    exited {exit_code, signal, oom_killed}; failed {stage, message};
    exec_started {stream, pid}; exec_exited {stream, exit_code, signal};
    exec_failed {stream, message}; pong {id}; asleep {}; stats {id, …};
    containers {containers: [{name, state, run, checks: [{status, output}]}]}

`stop`: signal to the main process's group, wait, SIGTERM for at most 1 s, then SIGKILL
(spec/config-cli.md §6 no. 7). `exit_code` is 128 + signal when `signal` is not null.
`container` of an exec is empty for the machine itself; one without containers has nothing else.
A stop of a machine of containers asks each in its turn: those first that others do not depend on,
each with its own signal and timeout; what is left after the stop's timeout is ended as above.
A run spec is sent once per boot, after hello. Signal names are `SIGINT` and the like.

Hello comes again whenever the guest saw the channel break, followed by what was last: started,
exited or failed; exec sessions from before it are gone, and a second run spec is ignored. The
host hangs up when it has heard exited or failed; the guest waits for that (at most 3 s) before
it powers off.

`sleep` comes before a guest is saved: exec sessions end, `asleep` is the last word on the
channel, output waits in the guest. `wake` is the first word to a guest that goes on, be it itself
or one of many copies: it mixes the entropy into the random pool before anything else, sets its
clock, and says hello again. Hello has no boot id before there was a run spec: the kernel makes it
when it is first read, and a template's would be every copy's.

`accept` serves one more connection to `/.fly/api`: whoever connects next is on that stream, a
session without a process. It begins with exec_started (`pid` of who connected), its bytes are
STDOUT from the guest, of which at first `credit` may come, and STDIN towards it; EOF is the end of
either, and exec_exited its own. An init or shim of a former release does not know it, and then
there is no such socket.

`containers` comes whenever one does something else or a check of one turns, and after hello.
`answer` is what the host found when it asked the check of that place in that run of a container;
init counts it as it does its own.

An answer to stats carries `uptime_ms, memory, load, processes, cpus, disks,
networks, filesystems` (fields: `rust/crates/wire/src/messages.rs`), in bytes, since boot.
"""

from godwit.wire.guest_containers import Container, SharedVolume
from godwit.wire.guest_process import File, Process, split_environment
from godwit.wire.record import Record

__all__ = ["Container", "File", "Process", "SharedVolume", "split_environment"]

PROTOCOL_VERSION = 1
MOST_SPEC_BYTES = 1_040_384
"""Of a run spec as JSON: with time and entropy of its sending it fits one message (1 MiB)."""


class Root(Record):
    """The root: a read-only image under a writable scratch disk, joined by overlayfs.

    Devices are named by their virtio serial, never by `vdX`.

    Attributes:
        lasting: The scratch disk is used again: the machine's end is told once it is synced.
    """

    image: str = "root"
    image_filesystem: str = "erofs"
    scratch: str = "scratch"
    scratch_filesystem: str = "ext4"
    lasting: bool = False


class Swap(Record):
    """A disk that the kernel may move memory to; `mkswap` has been run on it."""

    device: str = "swap"


class Mount(Record):
    """A further disk and where it is mounted.

    Attributes:
        mode: Of its root, set at every mount; `None` leaves what it has.
    """

    device: str
    path: str
    filesystem: str = "ext4"
    mode: int | None = None


CACHE = Mount(device="cache", path="/.fly/cache", mode=0o1777)
"""The cache drive of a machine that has one: everybody's in it, like `/tmp`."""


class Address(Record):
    """An address of the guest's interface; the guest is alone on it (/128, /32)."""

    address: str
    prefix: int


class Network(Record):
    """The guest's one interface, `eth0`, and its ways out.

    Attributes:
        mac: Its hardware address: a copy's device says the template's.
    """

    mtu: int = 1420
    mac: str | None = None
    addresses: tuple[Address, ...] = ()
    gateway_v4: str | None = None
    gateway_v6: str | None = None


class Forward(Record):
    """Names that are asked of a resolver of their own.

    Attributes:
        basename: Itself and all below it.
        address: `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`.
    """

    basename: str
    address: str


class Resolver(Record):
    """What /etc/resolv.conf says.

    Attributes:
        forwards: With any, resolv.conf names a forwarder of the guest's own, which asks these for
            their names and the name servers for all others.
    """

    nameservers: tuple[str, ...] = ("fdaa::3",)
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    forwards: tuple[Forward, ...] = ()


class HostsEntry(Record):
    """One line of /etc/hosts."""

    address: str
    names: tuple[str, ...]


class Directory(Record):
    """A directory of files, and where clients find them.

    Attributes:
        guest_path: In the machine's root; no symbolic link is followed on the way or below.
        url_prefix: What begins the paths of requests for them.
        index_document: What a directory is answered with; empty for nothing.
    """

    guest_path: str
    url_prefix: str
    index_document: str = ""


class Statics(Record):
    """Files of the machine that its file server hands out.

    Attributes:
        listen: `IPV4:PORT`, on which the host alone reaches it.
        revision: Part of every file's tag: another image's file of the same date is another file.
    """

    listen: str
    revision: str = ""
    directories: tuple[Directory, ...]


class RunSpec(Record):
    """All that init needs to turn a booted kernel into this machine.

    Attributes:
        clock_unix_ns: What the guest's clock is set to; `None` keeps the RTC's time.
        process: The main process; a machine of containers has none.
        beside: Processes beside the main one: the machine ends with whichever ends first.
        containers: The main one first; when all end in a stop, it says how the machine ended.
        entropy_base64: Bytes credited to the guest's random pool before anything runs.
        statics: `None` for a machine without a file server.
    """

    v: int = 1
    machine_id: str
    hostname: str
    clock_unix_ns: int | None = None
    entropy_base64: str | None = None
    root: Root = Root()
    swap: Swap | None = None
    mounts: tuple[Mount, ...] = ()
    network: Network = Network()
    resolver: Resolver = Resolver()
    hosts: tuple[HostsEntry, ...] = ()
    files: tuple[File, ...] = ()
    statics: Statics | None = None
    process: Process | None = None
    beside: tuple[Process, ...] = ()
    containers: tuple[Container, ...] = ()
    volumes: tuple[SharedVolume, ...] = ()
