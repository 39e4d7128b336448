"""The settings of one host, parsed once into typed records.

Read from a TOML file, then the environment (`GODWIT_<SECTION>_<KEY>`), then flags; every
mistake is reported together. `godwit.host` turns them into each component's own file.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from godwit.base import errors

_STRICT = ConfigDict(frozen=True, extra="forbid")

Role = Literal["bus", "control", "keyring", "registry", "agent", "edge", "dns"]
ROLES: tuple[Role, ...] = ("bus", "control", "keyring", "registry", "agent", "edge", "dns")
"""What a server may be in its cluster; the first one is everything."""


def _programs() -> Path:
    built = Path(__file__).resolve().parents[3] / "build" / "programs"
    return built if built.is_dir() else Path("/usr/lib/godwit")


class Paths(BaseModel):
    """Where things lie. All absolute."""

    model_config = _STRICT

    data: Path = Path("/var/lib/godwit")
    """Everything that must survive: databases, keys, images, machines' disks."""
    run: Path = Path("/run/godwit")
    """Sockets and pids; gone after `godwit down`. Kept short: socket paths end at 108 bytes."""
    cache: Path = Path("/var/cache/godwit")
    """Rebuildable and shared by instances: guest kernel, base images, Rust programs."""
    programs: Path = Field(default_factory=_programs)
    """Where godwit-edge, godwit-dns, godwit-shim and godwit-init are: /usr/lib/godwit, or what
    `make programs` built when Godwit runs from its source."""

    @property
    def store(self) -> Path:
        """Images and machines' disks: on a reflink file system."""
        return self.data / "store"


class Listen(BaseModel):
    """Addresses the components listen on, `host:port`."""

    model_config = _STRICT

    api: str = "127.0.0.1:4280"
    """The REST API. 4280 is the port of the public Machines API inside a network."""
    edge: str = "0.0.0.0:8080"
    """Public HTTP; apps see it as external port 80."""
    edge_tls: str | None = "0.0.0.0:8443"
    """Public HTTPS, and whatever else apps have at external port 443; `None` for nowhere."""
    edge_status: str = "127.0.0.1:8090"
    """The edge's readiness and metrics."""
    bus: str = "127.0.0.1:4222"
    registry: str = "127.0.0.1:5050"
    mesh: int = Field(51_820, ge=1, le=65_535)
    """UDP port of WireGuard, on all addresses; used once there are other hosts."""
    backhaul: int = Field(4_282, ge=1, le=65_535)
    """TCP port on the mesh at which other hosts' edges are answered."""
    flycast: int = Field(4_283, ge=1, le=65_535)
    """TCP port at `fdaa::3` where machines' connections to private addresses of apps are led;
    from outside nobody reaches it."""
    join: str | None = None
    """Where servers that join are answered, by TLS with a certificate that their token names;
    `None` for nowhere. 4281 is customary."""


class Host(BaseModel):
    """What this server is and may give to machines."""

    model_config = _STRICT

    region: str = Field("lcl", pattern=r"^[a-z]{3}$")
    """Three letters; `lcl` for a host that is nowhere in particular."""
    zone: str = Field("0000", pattern=r"^[0-9a-f]{4}$")
    endpoints: tuple[str, ...] = ()
    """Where other hosts reach this one's WireGuard from outside, `address:port`, the best first;
    needed on the first host once others are to join."""
    join_address: str | None = None
    """`host:port` under which servers that join reach `listen.join`; `None` means that address
    itself, or, where that is every address, the one of the first of `endpoints`."""
    address: str | None = None
    """The IP address under which other hosts reach what runs here; `None` means that in the
    mesh."""
    memory_mb: int | None = Field(None, gt=0)
    """Memory for machines, MB; `None` means what the host has, less `reserved_memory_mb`."""
    reserved_memory_mb: int = Field(1_024, ge=0)
    """Memory kept for the host itself, MB."""
    memory_overcommit: float = Field(1.0, ge=1)
    """Memory promised to machines per memory there is; above 1 the host may run out of it."""
    cpus: int | None = Field(None, gt=0)
    cpu_overcommit: float = Field(16.0, gt=0)
    """Virtual CPUs per real one: a shared vCPU has a baseline of 1/16 (spec/machines.md §6)."""
    first_vm_uid: int = Field(2_000_000, ge=100_000)
    """Machines run under uids from here on, one each."""
    keyring_uid: int = Field(1_990_000, ge=1, lt=2**31)
    """The user and group of the keyring, who owns nothing but apps' keys; no machine's."""
    uplink: str | None = None
    """Interface for NAT egress; `None` means whichever the route to the world uses."""
    mtu: int = Field(1_420, ge=1_280, le=8_920)
    """Of machines' networks and of the mesh: the smallest between any two hosts, less 80. The
    same on all hosts."""
    dns_upstreams: tuple[str, ...] = ()
    """Resolvers for names outside; empty means those of /etc/resolv.conf."""
    accelerator: str = Field("auto", pattern="^(auto|kvm|tcg)$")
    vmm: str = Field("auto", pattern="^(auto|qemu|firecracker)$")
    """What runs machines. `auto` means Firecracker where KVM runs guests and `firecracker` and
    `jailer` are on the PATH, QEMU otherwise."""
    warm_starts: bool = True
    """Whether machines start as copies of a guest that was booted once; each boots otherwise."""
    share_templates: bool = False
    """Whether organizations share those guests, and with them memory pages and the kernel's
    address layout: only for a host with a single tenant."""


class Limits(BaseModel):
    """What machines and organizations are held to beside memory; 0 lifts a limit."""

    model_config = _STRICT

    cpu: str = Field("auto", pattern="^(auto|on|off)$")
    """Whether machines are held to their CPU baseline once their balance is spent. `auto` means
    yes under KVM and no under emulation, where a VMM needs many times the CPU of its guest."""
    root_iops: int = Field(2_000, ge=0)
    """Reads and writes of a machine's root disk, a second."""
    root_mib_s: int = Field(8, ge=0)
    """Bytes read and written of a machine's root disk, MiB a second."""
    root_burst_mib: int = Field(256, ge=0)
    """What a rested machine may read and write beyond that at once, MiB: a start."""
    network_mbit: int = Field(1_000, ge=0)
    """A machine's traffic each way, Mbit a second."""
    autostop_s: int = Field(240, ge=1)
    """Between two looks for machines that the load does not need, at most one of an app, region
    and process group being stopped or suspended each time."""
    org_machines: int = Field(1_000, ge=0)
    """Living machines of one organization, those at rest included."""


class Keep(BaseModel):
    """What is kept, and how long; what grows for ever otherwise has its bound here."""

    model_config = _STRICT

    images_days: int = Field(14, ge=1)
    """An image on a host that no machine has and no release needs goes after so many days."""
    images_high: float = Field(0.85, gt=0, le=1)
    """Share of the images' disk from which such images go at once, the longest unused first."""
    images_low: float = Field(0.75, ge=0, le=1)
    """Share at which that ends."""
    releases: int = Field(10, ge=1)
    """Releases of an app whose images stay: it may be rolled back to them."""
    pushed_hours: int = Field(24, ge=1)
    """A pushed image stays in the registry so long, whether a release names it or not."""
    org_disk_mb: int = Field(51_200, ge=1)
    """What an organization may keep in the registry, MB; pushes beyond it are refused."""
    audit_days: int = Field(365, ge=1)
    machines_days: int = Field(90, ge=2)
    """A destroyed machine can be looked up so long."""
    usage_days: int = Field(400, ge=31)
    """Hosts keep usage intervals so long; export them before."""
    mesh_key_days: int = Field(90, ge=0)
    """A host changes its key in the mesh after so long; 0 for never."""
    build_cache_mb: int = Field(20_480, ge=1)
    """Layers kept between builds, MB."""
    build_cache_days: int = Field(30, ge=1)


class Api(BaseModel):
    """How the REST API is reached, and what it holds its users to."""

    model_config = _STRICT

    name: str | None = Field(None, pattern=r"^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*$")
    """A host name under which this host's edge serves the API, from whichever control answers;
    `None` for none. The same on all hosts."""

    rate_limits: bool = True
    """Whether the same request about the same machine or app is refused when it comes too often:
    1 a second and 3 at once, reads of a machine 5 a second and 10 at once."""


class Control(BaseModel):
    """Where control keeps its rows."""

    model_config = _STRICT

    database: str | None = Field(
        None, pattern=r"^(sqlite|postgres(ql)?(\+psycopg)?://.*)?$", repr=False
    )
    """A postgresql:// URL as libpq takes it; none, or `sqlite`, means SQLite in the data
    directory. What `godwit control move-database` wrote down goes before it."""


class Addresses(BaseModel):
    """Public addresses for apps, on which every edge of the cluster answers."""

    model_config = _STRICT

    v4: tuple[str, ...] = ()
    """IPv4 addresses and prefixes of which apps may have one for themselves."""
    v6: tuple[str, ...] = ()
    """The same, IPv6."""
    shared_v4: str | None = None
    """The IPv4 address that all apps share, chosen by host name; the one that DNS names."""


class Build(BaseModel):
    """What builds on this host use of its own; nothing of it stays in an image."""

    model_config = _STRICT

    proxies: dict[str, str] = {}
    """`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` for RUN steps."""
    mounts: dict[str, Path] = {}
    """Path in the image to a file of the host that RUN steps see read-only: `/etc/pip.conf`, a
    bundle of certificates."""
    compression: str = Field("gzip", pattern="^(gzip|zstd)$")
    """Of the layers that builds push; zstd is smaller and quicker, and not read everywhere."""


class Edge(BaseModel):
    """Where the edge listens for apps beside its own addresses in `listen`; whom it believes."""

    model_config = _STRICT

    addresses: tuple[str, ...] = ()
    """IP addresses, `0.0.0.0` and `::` for all, on which every port is opened that a service
    of an app names, and closed when none does any more."""
    reserved_ports: tuple[int, ...] = (22,)
    """Ports that no app gets there, by TCP or UDP; those of `listen` never."""
    trusted_proxies: tuple[str, ...] = ()
    """Load balancers in front of this host: what comes from these addresses or prefixes
    (`192.0.2.0/24`) has to begin with a PROXY header, and comes from whom it names."""
    trusted_forwarders: tuple[str, ...] = ()
    """HTTP proxies, CDNs and load balancers in front of this host: what X-Forwarded-For and
    X-Forwarded-Proto of a request say is believed from these addresses or prefixes."""


class Settings(BaseModel):
    """Everything `godwit up` can be told.

    Attributes:
        instance: Tells apart two Godwits on one server: cgroups and run directory carry it.
        apps_domain: Apps answer at `<app>.<apps_domain>`.
    """

    model_config = _STRICT

    instance: str = Field("godwit", pattern=r"^[a-z][a-z0-9-]{0,15}$")
    apps_domain: str = "godwit.localhost"
    paths: Paths = Paths()
    listen: Listen = Listen()
    host: Host = Host()
    api: Api = Api()
    limits: Limits = Limits()
    keep: Keep = Keep()
    control: Control = Control()
    build: Build = Build()
    edge: Edge = Edge()
    addresses: Addresses = Addresses()


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Return the settings from a file, the environment and flags, the last one winning.

    Args:
        path: A TOML file; `None` for none.
        environ: Variables such as `GODWIT_LISTEN_EDGE` or `GODWIT_INSTANCE`.
        flags: Dotted names to values, `None` values left out: `{"listen.edge": "…"}`.

    Raises:
        Failure: `invalid_argument`, naming every wrong setting.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            merged = tomllib.loads(path.read_text())
        except OSError as error:
            raise errors.invalid(f"cannot read settings from {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise errors.invalid(f"{path}: {error}") from error
    for name, value in environ.items():
        if name.startswith("GODWIT_"):
            _put_variable(merged, name.removeprefix("GODWIT_").lower(), value)
    for dotted, value in flags.items():
        if value is not None:
            _put(merged, dotted.split("."), value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise errors.invalid("these settings are wrong:\n  " + "\n  ".join(wrong)) from error


def from_process(flags: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings for this process: $GODWIT_SETTINGS or /etc/godwit/godwit.toml."""
    named = os.environ.get("GODWIT_SETTINGS")
    standard = Path("/etc/godwit/godwit.toml")
    path = Path(named) if named else (standard if standard.exists() else None)
    return load(path, os.environ, flags or {})


_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("paths", Paths),
    ("listen", Listen),
    ("host", Host),
    ("api", Api),
    ("limits", Limits),
    ("keep", Keep),
    ("control", Control),
    ("build", Build),
    ("edge", Edge),
    ("addresses", Addresses),
)


_LISTS = (
    "v4",
    "v6",
    "dns_upstreams",
    "endpoints",
    "addresses",
    "reserved_ports",
    "trusted_proxies",
    "trusted_forwarders",
)


def _put_variable(into: dict[str, Any], name: str, value: str) -> None:
    for section, model in _SECTIONS:
        key = name.removeprefix(f"{section}_")
        if key != name and key in model.model_fields:
            _put(into, [section, key], _read_variable(key, value))
            return
    if name in ("instance", "apps_domain"):
        into[name] = value


def _read_variable(key: str, value: str) -> Any:
    """Return a variable's value: a list by commas, a map as `NAME=VALUE,NAME=VALUE`."""
    if key in _LISTS:
        return tuple(value.split(","))
    if key in ("proxies", "mounts"):
        pairs = [part.strip().partition("=") for part in value.split(",")]
        # What is no map is left for the model to refuse.
        return {name: rest for name, _, rest in pairs} if all(p[1] for p in pairs) else value
    return value


def _put(into: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        into = into.setdefault(key, {})
    into[keys[-1]] = value


def read_resolved(path: Path) -> Settings:
    """Return the settings that `godwit up` resolved and wrote for its components (JSON)."""
    return Settings.model_validate_json(path.read_text())
