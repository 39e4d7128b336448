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


class EdgeConfig(Record):
    """`edge.json`.

    Attributes:
        view_file: Where the last view of the catalog is kept across restarts.
        agent_socket: The agent's local catalog socket (`wire.facts.LocalFrame`).
        status_address: HTTP for `/ready`, `/metrics` and `/view`.
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


class DnsConfig(Record):
    """`dns.json`.

    Attributes:
        addresses: Where it answers, UDP and TCP: `[fdaa::3]:53`.
        upstreams: Resolvers for names outside, `address:port`.
    """

    v: int = 1
    host_id: str
    region: str
    addresses: tuple[str, ...]
    upstreams: tuple[str, ...]
    agent_socket: str
    bus: BusClient
    view_file: str
