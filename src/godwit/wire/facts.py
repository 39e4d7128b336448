"""The catalog's facts: whole records, each with its owner, epoch and revision.

Published in the region's JetStream stream `FACTS_<region>` (one message kept per subject) under
`facts.<region>.<kind>.<owner>.<key>`, and by the agent to its own host's edge and DNS over the
local socket (see `LocalFrame`). A record replaces another of the same subject only when its
(epoch, revision) is greater. A tombstone is the record with `deleted` set. Rust twins in
`rust/crates/wire/src/facts.rs`, golden examples in `contracts/golden/fact_*.json`.

    facts.<region>.app.control.<app_name>         owner `control`
    facts.<region>.machine.<host_id>.<machine_id> owner the host
    facts.<region>.host.<host_id>.<host_id>       owner the host
    facts.<region>.member.control.<host_id>       owner `control`, in every region's stream
"""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from godwit.wire.record import Record

MOST_BYTES = 64_512
"""The bus takes no longer record; what makes one is bounded where it comes in."""


class AppFact(Record):
    """An app as edges and DNS need it.

    Attributes:
        org_slug: What people call the organization; empty where control is of a former release.
        hostnames: Full names the edge answers for, lower case.
        addresses: IP addresses that are this app's alone, on every edge that has them.
        shared_udp: UDP ports that are this app's alone at addresses that apps share, `ip:port`.
        replays_across_networks: It may replay requests to apps of its organization's other
            networks (spec/network.md §2.4).
    """

    kind: Literal["app"] = "app"
    v: int = 1
    owner: str = "control"
    epoch: int
    revision: int
    deleted: bool = False
    org_id: str
    org_slug: str = ""
    network_id: str
    network_number: int
    app_id: str
    app: str
    hostnames: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    shared_udp: tuple[str, ...] = ()
    replays_across_networks: bool = False


TlsVersion = Literal["TLSv1.2", "TLSv1.3"]
TLS_VERSIONS: tuple[TlsVersion, ...] = ("TLSv1.2", "TLSv1.3")


class TlsOptions(Record):
    """How the edge speaks TLS at a port.

    Attributes:
        alpn: Protocols it agrees to; empty for those of the handlers.
        versions: Empty for all.
        default_self_signed: Whether a client that names no host of the app's is shown a
            certificate that nobody vouches for, instead of being refused.
    """

    alpn: tuple[str, ...] = ()
    versions: tuple[TlsVersion, ...] = ()
    default_self_signed: bool = False


class ReplayCache(Record):
    """For which requests the edge remembers where they were replayed.

    Attributes:
        type: What tells clients apart: a cookie or a header.
        name: Of that cookie or header.
        allow_bypass: Whether a client may ask for the app itself.
    """

    path_prefix: str
    ttl_seconds: int
    type: Literal["cookie", "header"]
    name: str
    allow_bypass: bool = False


class HttpOptions(Record):
    """How the edge speaks HTTP at a port.

    Attributes:
        compress: Whether responses are compressed; `None` where the config says nothing.
        h2_backend: The app speaks HTTP/2 without TLS.
        idle_timeout: Seconds that a connection to the app may be idle.
        headers_read_timeout: Seconds that a client may take for a request's head.
        pristine: The edge adds no headers of its own to responses.
        remove: Headers that are taken from responses.
        add: Headers that are added to responses, name and value.
    """

    compress: bool | None = None
    h2_backend: bool = False
    idle_timeout: int | None = None
    headers_read_timeout: int | None = None
    pristine: bool = False
    remove: tuple[str, ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    replay_cache: tuple[ReplayCache, ...] = ()


class ServicePort(Record):
    """An external port, or an inclusive range of them.

    Attributes:
        proxy_version: Of the PROXY header that the handler `proxy_proto` writes.
    """

    start_port: int
    end_port: int
    handlers: tuple[str, ...] = ()
    force_https: bool = False
    tls_options: TlsOptions | None = None
    http_options: HttpOptions | None = None
    proxy_version: Literal["v1", "v2"] = "v1"

    @model_serializer(mode="wrap")
    def _without_absent_options(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most ports do not have: a fact has room for a hundred of them."""
        told: dict[str, Any] = whole(self)
        return {name: value for name, value in told.items() if value is not None}


class Service(Record):
    """One service of a machine.

    Attributes:
        passing: Whether its service checks let traffic through (true when it has none).
        autostart: Whether the edge may start the machine for a request.
        soft_limit: Load from which others are preferred; 20 unless said.
        hard_limit: Load at which nothing more is sent; `None` for no limit.
    """

    protocol: Literal["tcp", "udp"] = "tcp"
    internal_port: int
    ports: tuple[ServicePort, ...] = ()
    passing: bool = True
    autostart: bool = True
    concurrency: Literal["connections", "requests"] = "connections"
    soft_limit: int = 20
    hard_limit: int | None = None


class Statics(Record):
    """The file server in a machine.

    Attributes:
        port: Where it listens, at the machine's local IPv4.
        prefixes: Requests for paths below these are asked of it first; what it has no file for
            is the app's.
    """

    port: int
    prefixes: tuple[str, ...]


class MachineFact(Record):
    """A machine as edges, DNS and control's view need it.

    Attributes:
        private_ip: Its 6PN address.
        local_ipv4: On which its own host reaches it; means nothing elsewhere.
        cordoned: Takes no traffic from the edge.
        draining: It takes none for a moment only: what it has in flight ends, then it is stopped
            or replaced. Requests without another machine wait for it.
        in_dns: False with `dns.skip_registration`.
        autostop: What the edge has done with it when there are more than the load needs.
        min_running: So many of its process group are left running in its region whatever the
            load; 0 outside of the app's primary region.
        statics: `None` when it serves no files of its own.
    """

    kind: Literal["machine"] = "machine"
    v: int = 1
    owner: str
    epoch: int
    revision: int
    deleted: bool = False
    org_id: str
    network_id: str
    network_number: int
    app_id: str
    app: str
    machine_id: str
    instance_id: str
    name: str
    host_id: str
    region: str
    state: str
    cordoned: bool = False
    draining: bool = False
    in_dns: bool = True
    private_ip: str
    local_ipv4: str
    process_group: str = "app"
    metadata: dict[str, str] = {}
    services: tuple[Service, ...] = ()
    autostop: Literal["off", "stop", "suspend"] = "off"
    min_running: int = 0
    statics: Statics | None = None


class HostFact(Record):
    """A host: where it is and where its edge takes backhaul.

    Attributes:
        backhaul: `address:port`, on the mesh; empty when its edge takes none, as one of an
            older release.
    """

    kind: Literal["host"] = "host"
    v: int = 1
    owner: str
    epoch: int
    revision: int
    deleted: bool = False
    host_id: str
    region: str
    zone: str
    backhaul: str = ""


MemberState = Literal["active", "cordoned", "draining", "removed"]
"""Cordoned and draining hosts take no new machines; a removed one has no rights any more."""


class MemberFact(Record):
    """A server of the cluster: who it is, by which keys it is known, where it is reached.

    There is one for every server that ever joined: that of a removed host stays, so that one
    that was away learns of it, and its number is never another's.

    Attributes:
        host_number: The 32 host bits of 6PN addresses; its mesh address follows from it
            (`wire.members`).
        region: Where the host is; not the region of the stream it is told in.
        roles: What runs there: `bus`, `control`, `keyring`, `registry`, `agent`, `edge`, `dns`.
        keys: The nkey that each of its components has on the bus: `host` (the agent), `edge`,
            `dns`; `control` and `catalog` where they run.
        mesh_key: Its WireGuard public key, base64.
        mesh_next_key: What that key will be, for the others to know before it is used; empty
            unless it is about to change.
        endpoints: Where its WireGuard takes packets, `address:port`, the best first; none when
            it cannot be reached from outside and begins every conversation itself.
        services: Where other members reach what runs there, `address:port` by role.
    """

    kind: Literal["member"] = "member"
    v: int = 1
    owner: str = "control"
    epoch: int
    revision: int
    deleted: bool = False
    host_id: str
    host_number: int
    region: str
    zone: str
    roles: tuple[str, ...]
    keys: dict[str, str]
    mesh_key: str = ""
    mesh_next_key: str = ""
    endpoints: tuple[str, ...] = ()
    services: dict[str, str] = {}
    state: MemberState = "active"


Fact = Annotated[AppFact | MachineFact | HostFact | MemberFact, Field(discriminator="kind")]


def subject(region: str, fact: Fact) -> str:
    """Return the subject a fact is published under."""
    key = fact.machine_id if isinstance(fact, MachineFact) else ""
    if isinstance(fact, AppFact):
        key = fact.app
    elif isinstance(fact, HostFact | MemberFact):
        key = fact.host_id
    return f"facts.{region}.{fact.kind}.{fact.owner}.{key}"


class LocalFrame(Record):
    """A line of JSON on the agent's local catalog socket.

    On connect the agent sends every fact it owns, then one `synced`, then each change. The
    edge and DNS hold these above what the bus says of the same host. A `wake` is answered by
    `woken` with the same id once the machine is started, or by `error`. `count` asks what a
    machine has in flight; only readers that said `hello` are asked. `distances` tells round trips
    to other hosts and regions, in microseconds.
    """

    type: Literal["fact", "synced", "woken", "count", "error", "distances"]
    fact: Fact | None = None
    id: int | None = None
    machine_id: str | None = None
    message: str | None = None
    hosts: dict[str, int] | None = None
    regions: dict[str, int] | None = None


LOCAL_VERSION = 2
"""The version of the local catalog socket that `Hello` tells; 2 is the first with `count`."""


class Hello(Record):
    """The first line of a reader that answers `count`."""

    type: Literal["hello"] = "hello"
    v: int
    component: str


class Wake(Record):
    """A reader asks for a machine to be started."""

    type: Literal["wake"] = "wake"
    id: int
    machine_id: str


class Counted(Record):
    """What a machine has in flight at a reader that has acted upon every fact before `count`.

    Attributes:
        tunnels: Connections that became something else (WebSocket): they have no end to wait
            for, and are not among the requests.
    """

    type: Literal["counted"] = "counted"
    id: int
    requests: int
    tunnels: int


class Stop(Record):
    """A reader finds that a machine is not needed: its requests end, then it rests.

    Not answered: whether it rests is told by its fact, and the next look finds it again if not.
    """

    type: Literal["stop"] = "stop"
    machine_id: str
    suspend: bool = False


LocalRequest = Annotated[Hello | Wake | Counted | Stop, Field(discriminator="type")]
"""A line of JSON to the agent."""
