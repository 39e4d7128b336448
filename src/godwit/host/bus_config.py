"""The configuration of a region's bus: who may say what.

Each host speaks only for itself and each reader only reads; a stolen key of one component opens
nothing of the others, and none of another region's owners. Who is no member has no user: the
server cuts the connections of whoever leaves the file when it reads it again. Subjects are those
of `wire.facts` and `wire.host_rpc`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from godwit.bus import votes
from godwit.host.identity import HostIdentity, Keys

MIRROR = "MIRROR"
"""The stream with what hosts of other regions own, in every region."""


@dataclass(frozen=True)
class Member:
    """A host, as far as buses go.

    Attributes:
        keys: The public nkey of each of its components; `control` and `catalog` only where they
            run.
    """

    host_id: str
    region: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """How the servers of one region find each other.

    Attributes:
        listen: Where this one takes the others, `host:port`.
        routes: Where the others do.
        secret: What every one of them knows and nobody else.
        votes: Password of who takes their votes from servers that are gone (`bus.votes`).
        reached_at: Where the others reach this one, as it listens on loopback.
        clients_at: Where the region's hosts reach it; clients of the other servers are told.
    """

    listen: str
    routes: tuple[str, ...]
    secret: str = field(repr=False)
    votes: str = field(repr=False)
    reached_at: str
    clients_at: str


@dataclass(frozen=True)
class Server:
    """One nats-server.

    Attributes:
        listen: Where it takes clients, `host:port`.
        store: Where its streams lie.
        cluster: `None` for a region's only server.
    """

    host_id: str
    region: str
    listen: str
    store: Path
    cluster: Cluster | None = None


def this_member(identity: HostIdentity, keys: Keys) -> Member:
    """Return the member that this host is."""
    return Member(identity.host_id, identity.region, keys.public)


def render(server: Server, members: Iterable[Member]) -> str:
    """Return nats-server's configuration file; the same for the same members in any order."""
    users = [
        text
        for member in sorted(members, key=lambda one: one.host_id)
        for component, key in sorted(member.keys.items())
        if key and (text := _user(key, _rights(component, member, server.region)))
    ]
    address, port = _split(server.listen)
    return (
        # Quoted, because an id of digits only would be read as a number.
        f'server_name: "{server.host_id}"\n'
        f'host: "{address}"\nport: {port}\n'
        f"max_payload: 1MB\n"
        f'jetstream {{ store_dir: "{server.store}", domain: "{server.region}",'
        f" max_memory_store: 64MB }}\n"
        f"{_cluster(server)}{_system(server)}"
        f"authorization {{\n  users: [\n{''.join(users)}  ]\n}}\n"
    )


@dataclass(frozen=True)
class _Rights:
    publish: Collection[str]
    subscribe: Collection[str]
    responses: bool = False
    never: Collection[str] = ()


def _rights(component: str, member: Member, region: str) -> _Rights | None:
    """Return what a component of a member may do on a region's bus; `None` for nothing at all."""
    if component == "control":
        return _control(region)
    if component == "catalog":
        return _catalog(region, home=member.region == region)
    if member.region != region:
        return None
    if component == "host":
        return _host(region, member.host_id)
    if component in ("edge", "dns"):
        reads = [*_reading(_facts(region)), *_reading(MIRROR)]
        return _Rights(publish=reads, subscribe=["_INBOX.>"])
    return None


def _control(region: str) -> _Rights:
    stream = _facts(region)
    return _Rights(
        publish=[
            "godwit.host.*.rpc.>",
            "godwit.bids.>",
            "facts.*.app.control.>",
            "facts.*.member.control.>",
            *_making(stream),
            *_reading(stream),
            # Control alone changes the stream's form and clears what an owner left for ever.
            f"$JS.API.STREAM.UPDATE.{stream}",
            f"$JS.API.STREAM.PURGE.{stream}",
        ],
        subscribe=["_INBOX_control.>", "godwit.control.rpc.>"],
        responses=True,
    )


def _host(region: str, host: str) -> _Rights:
    return _Rights(
        publish=[
            f"facts.{region}.machine.{host}.>",
            f"facts.{region}.host.{host}.>",
            f"godwit.control.rpc.{host}.>",
            *_making(_facts(region)),
            # Members, that is.
            *_reading(_facts(region)),
        ],
        subscribe=[
            f"godwit.host.{host}.rpc.>",
            f"godwit.bids.{region}",
            f"godwit.bids.{region}.{host}",
            f"_INBOX_{host}.>",
        ],
        responses=True,
    )


def _catalog(region: str, *, home: bool) -> _Rights:
    """What keeps a region's mirror: reads every region's facts, writes at home alone.

    Of its own region it cannot say anything, not even at home.
    """
    reads = _reading(_facts(region))
    if not home:
        return _Rights(publish=reads, subscribe=["_INBOX_catalog.>"])
    return _Rights(
        publish=[
            *reads,
            *_making(MIRROR),
            *_reading(MIRROR),
            f"$JS.API.STREAM.UPDATE.{MIRROR}",
            f"$JS.API.STREAM.MSG.GET.{MIRROR}",
            "mirror.*.machine.>",
            "mirror.*.host.>",
            f"godwit.mirror.{region}",
        ],
        subscribe=["_INBOX_catalog.>", f"godwit.mirror.{region}"],
        never=[f"mirror.{region}.>"],
    )


def _facts(region: str) -> str:
    return f"FACTS_{region}"


def _making(stream: str) -> list[str]:
    return [f"$JS.API.STREAM.CREATE.{stream}", f"$JS.API.STREAM.INFO.{stream}"]


def _reading(stream: str) -> list[str]:
    return [
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.INFO.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
        f"$JS.FC.{stream}.>",
        "$JS.API.INFO",
    ]


def _cluster(server: Server) -> str:
    if server.cluster is None:
        return ""
    address, port = _split(server.cluster.listen)
    secret = server.cluster.secret
    routes = [f"nats://godwit:{secret}@{route}" for route in server.cluster.routes]
    return (
        # Who is connected to one learns of all, and goes to another when its own is away.
        f'client_advertise: "{server.cluster.clients_at}"\n'
        f'cluster {{\n  name: "{server.region}"\n  host: "{address}"\n  port: {port}\n'
        f'  advertise: "{server.cluster.reached_at}"\n'
        f'  authorization {{ user: "godwit", password: "{secret}" }}\n'
        f"  routes: [{_quoted(routes)}]\n}}\n"
    )


def _system(server: Server) -> str:
    """Return the one user of the servers' own account; a server by itself has no use for it."""
    if server.cluster is None:
        return ""
    return (
        f'accounts {{ $SYS {{ users: [ {{ user: "{votes.USER}",'
        f' password: "{server.cluster.votes}", permissions: {{\n'
        f'    publish: {{ allow: ["{votes.SUBJECT}"] }},\n'
        f'    subscribe: {{ allow: ["_INBOX_{votes.USER}.>"] }} }} }} ] }} }}\n'
    )


def _split(listen: str) -> tuple[str, str]:
    address, _, port = listen.rpartition(":")
    return address.strip("[]"), port


def _user(public_key: str, rights: _Rights | None) -> str:
    if rights is None:
        return ""
    never = f", deny: [{_quoted(rights.never)}]" if rights.never else ""
    answers = ", allow_responses: true" if rights.responses else ""
    return (
        f"    {{ nkey: {public_key}, permissions: {{\n"
        f"        publish: {{ allow: [{_quoted(rights.publish)}]{never} }},\n"
        f"        subscribe: {{ allow: [{_quoted(rights.subscribe)}] }}{answers} }} }}\n"
    )


def _quoted(subjects: Iterable[str]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)
