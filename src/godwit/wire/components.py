"""What the Rust components are told: one JSON file each, written by `godwit up`.

Rust twins: `rust/crates/wire/src/components.rs`; golden examples
`contracts/golden/{edge,dns}_config.json`. Started as `godwit-edge --config FILE`. Each tells
readiness by sd_notify (`READY=1` to $NOTIFY_SOCKET), drains on SIGTERM and exits 0.
"""

from godwit.wire.record import Record


class BusClient(Record):
    """How a component reaches the bus: servers and the file with its nkey seed."""

    servers: tuple[str, ...]
    seed_file: str


class Listener(Record):
    """A socket address, and the external port that apps see it as."""

    address: str
    port: int


class EdgeLimits(Record):
    """How long the edge waits, in milliseconds, and how much it holds back.

    Attributes:
        header_ms: For a client to send a request's head, or its first on a connection.
        idle_ms: A client's HTTP/2 connection without a request is closed after this.
        send_ms: For a client to take more of a response; by HTTP/1.1 it may be twice as long.
        connect_ms: For one connection attempt to a machine.
        reach_ms: For a started machine to take a connection, over all attempts.
        queue_ms: For a slot when every machine is at its hard limit.
        queue_length: Requests of one app that may wait for a slot, and as many for a machine.
        wake_ms: For a stopped machine to be started for a request, its app's first accept
            included.
        response_ms: For the head of a machine's response.
        autostop_ms: Between two looks for machines that the load does not need.
        backhaul_connect_ms: For one connection attempt to another host's edge.
        backhaul_silence_ms: A host that owes an answer and says nothing for so long is held for
            dead.
        handshake_ms: For all that precedes a client's first request or byte for the app: PROXY,
            TLS.
        handshakes: TLS handshakes under way at once, all clients together.
        handshakes_of_source: Of these from one /24 of IPv4 or /48 of IPv6.
        handshakes_of_app: Of these for one app.
        connections_of_source: Connections from one /24 of IPv4 or /48 of IPv6.
        connections_of_app: Connections to one app, where an address of its own or a handshake says
            that they are.
        ports: Ports listened on for apps.
        flows: Flows of UDP services at once; an app has half of them at most.
        flows_of_source: Of these from one /24 of IPv4 or /48 of IPv6.
        flow_ms: A flow ends when nothing was said for so long.
        flow_unanswered_ms: As above, of one that the app has not answered.
        kept_body_bytes: Of requests' bodies that are kept until they are answered, all together;
            what is beyond is passed on, and cannot be sent again.
        websocket_close_ms: For both sides of a WebSocket to close once the edge has told them to;
            half of `drain_ms` at most.
    """

    header_ms: int = 30_000
    idle_ms: int = 60_000
    send_ms: int = 60_000
    connect_ms: int = 2_000
    reach_ms: int = 10_000
    queue_ms: int = 10_000
    queue_length: int = 1_024
    wake_ms: int = 60_000
    response_ms: int = 600_000
    autostop_ms: int = 240_000
    backhaul_connect_ms: int = 1_000
    backhaul_silence_ms: int = 3_000
    handshake_ms: int = 10_000
    handshakes: int = 4_096
    handshakes_of_source: int = 512
    handshakes_of_app: int = 1_024
    connections_of_source: int = 16_384
    connections_of_app: int = 65_536
    ports: int = 1_024
    flows: int = 8_192
    flows_of_source: int = 512
    flow_ms: int = 120_000
    flow_unanswered_ms: int = 30_000
    kept_body_bytes: int = 256 * 1024 * 1024
    websocket_close_ms: int = 1_500


class TlsAuthority(Record):
    """With what the edge makes certificates for apps' names.

    Attributes:
        certificate_file: PEM: the edge's own authority first, then whoever vouches for it,
            without the root.
        key_file: PEM, PKCS #8: the key of the first.
    """

    certificate_file: str
    key_file: str


class Api(Record):
    """How the platform's API is reached through the edge.

    Attributes:
        name: The host name that leads to it, in lower case.
        servers: Where control answered when this was written; the catalog tells of others.
    """

    name: str
    servers: tuple[str, ...]


class EdgeConfig(Record):
    """`edge.json`.

    Attributes:
        view_file: Where the last view of the catalog is kept across restarts.
        agent_socket: The agent's local catalog socket (`wire.facts.LocalFrame`).
        status_address: HTTP for `/ready`, `/metrics` and `/view`.
        workers: Threads that carry requests; 0 for one per CPU.
        access_log: One line per request on stderr.
        backhaul: `address:port` on the mesh where other hosts' edges are answered, and whose
            address those see; `None` for a host that is alone.
        region_aliases: What clients and apps may write for several regions at once.
        region_ms: How far regions are, as light goes, there and back; for those to which
            nothing was measured yet.
        addresses: IP addresses on which every port is listened on that a service of an app names.
        reserved_ports: Ports that are never listened on for an app, by TCP or UDP.
        proxies: Peers that begin with a PROXY header: addresses, or prefixes such as
            `192.0.2.0/24`.
        forwarders: Peers whose X-Forwarded-For and X-Forwarded-Proto are believed, written the
            same way.
        tls: Without it no TLS is spoken.
        handover_socket: Where a successor of the process asks for its listening sockets.
        api: Without it the API is not served here.
        flycast: Where the host's packet policy leads what machines send to private addresses of
            apps, whatever port it is for.
        fly_src_key_file: The key by which apps are told which machine asks them (`wire.fly_src`).
            It may come later than this; without it they are told nothing.
    """

    v: int = 1
    host_id: str
    region: str
    apps_domain: str
    listeners: tuple[Listener, ...]
    status_address: str
    agent_socket: str
    bus: BusClient
    view_file: str
    drain_ms: int = 10_000
    workers: int = 0
    access_log: bool = False
    limits: EdgeLimits = EdgeLimits()
    backhaul: str | None = None
    region_aliases: dict[str, tuple[str, ...]] = {}
    region_ms: dict[str, int] = {}
    addresses: tuple[str, ...] = ()
    reserved_ports: tuple[int, ...] = ()
    proxies: tuple[str, ...] = ()
    forwarders: tuple[str, ...] = ()
    tls: TlsAuthority | None = None
    handover_socket: str | None = None
    api: Api | None = None
    flycast: str | None = None
    fly_src_key_file: str | None = None


class DnsConfig(Record):
    """`dns.json`.

    Attributes:
        addresses: Where it answers, UDP and TCP: `[fdaa::3]:53`.
        upstreams: Resolvers for names outside, `address:port`.
        region_ms: Round trips to other regions, until some are measured.
    """

    v: int = 1
    host_id: str
    region: str
    addresses: tuple[str, ...]
    upstreams: tuple[str, ...]
    agent_socket: str
    bus: BusClient
    view_file: str
    region_ms: dict[str, int] = {}
