"""The catalog's facts: whole records, each with its owner, epoch and revision.

Published in the region's JetStream stream `FACTS_<region>` (one message kept per subject) under
`facts.<region>.<kind>.<owner>.<key>`, and by the agent to its own host's edge and DNS over the
local socket (see `LocalFrame`). A record replaces another of the same subject only when its
(epoch, revision) is greater. A tombstone is the record with `deleted` set. Rust twins in
`rust/crates/wire/src/facts.rs`, golden examples in `contracts/golden/fact_*.json`.

    facts.<region>.app.control.<app_name>         owner `control`
    facts.<region>.machine.<host_id>.<machine_id> owner the host
    facts.<region>.host.<host_id>.<host_id>       owner the host
"""

from typing import Annotated, Literal

from pydantic import Field

from godwit.wire.record import Record


class AppFact(Record):
    """An app as edges and DNS need it.

    Attributes:
        hostnames: Full names the edge answers for, lower case.
    """

    kind: Literal["app"] = "app"
    v: int = 1
    owner: str = "control"
    epoch: int
    revision: int
    deleted: bool = False
    org_id: str
    network_id: str
    network_number: int
    app_id: str
    app: str
    hostnames: tuple[str, ...] = ()


class ServicePort(Record):
    """An external port, or an inclusive range of them."""

    start_port: int
    end_port: int
    handlers: tuple[str, ...] = ()
    force_https: bool = False


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


class MachineFact(Record):
    """A machine as edges, DNS and control's view need it.

    Attributes:
        private_ip: Its 6PN address.
        local_ipv4: On which its own host reaches it; means nothing elsewhere.
        cordoned: Takes no traffic from the edge.
        in_dns: False with `dns.skip_registration`.
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
    in_dns: bool = True
    private_ip: str
    local_ipv4: str
    process_group: str = "app"
    metadata: dict[str, str] = {}
    services: tuple[Service, ...] = ()


class HostFact(Record):
    """A host: where it is and where its edge takes backhaul."""

    kind: Literal["host"] = "host"
    v: int = 1
    owner: str
    epoch: int
    revision: int
    deleted: bool = False
    host_id: str
    region: str
    zone: str


Fact = Annotated[AppFact | MachineFact | HostFact, Field(discriminator="kind")]


def subject(region: str, fact: AppFact | MachineFact | HostFact) -> str:
    """Return the subject a fact is published under."""
    key = {
        "app": lambda f: f.app,
        "machine": lambda f: f.machine_id,
        "host": lambda f: f.host_id,
    }[fact.kind](fact)
    return f"facts.{region}.{fact.kind}.{fact.owner}.{key}"


class LocalFrame(Record):
    """A line of JSON on the agent's local catalog socket.

    On connect the agent sends every fact it owns, then one `synced`, then each change. The
    edge and DNS hold these above what the bus says of the same host. A line from edge to agent
    is `{"type": "wake", "id": n, "machine_id": …}`; the answer is `woken` with the same id once
    the machine is started, or `error`.
    """

    type: Literal["fact", "synced", "woken", "error"]
    fact: Fact | None = None
    id: int | None = None
    message: str | None = None
