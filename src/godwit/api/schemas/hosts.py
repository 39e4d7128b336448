"""Hosts, and the tokens that servers join with."""

from typing import Annotated, Literal

from pydantic import Field

from godwit.api.schemas.common import In, Out
from godwit.base import clock
from godwit.control import hosts, joining, mesh
from godwit.control.records import JoinToken
from godwit.wire import members


class Host(Out):
    """A host.

    Attributes:
        state: `active`, `cordoned`, `draining` or `removed`.
        status: Whether it answers: `ok` or `unreachable`.
        release: The release of Godwit it last said it runs; empty when it never did.
    """

    host_id: str
    host_number: int
    region: str
    zone: str
    state: Literal["active", "cordoned", "draining", "removed"]
    status: Literal["ok", "unreachable"]
    roles: list[str]
    machines: int
    free_memory_mb: int | None
    release: str
    mesh_address: str
    endpoints: list[str]
    services: dict[str, str]
    created_at: str
    seen_at: str | None

    @classmethod
    def of(cls, now: hosts.HostNow) -> "Host":
        """Return a host as the API shows it."""
        host = now.host
        return cls(
            host_id=host.id,
            host_number=host.number,
            region=host.region,
            zone=host.zone,
            state=host.state,
            status=now.status,
            roles=host.roles,
            machines=now.machines,
            free_memory_mb=now.free_memory_mb,
            release=host.release,
            mesh_address=str(members.mesh_address(host.number)),
            endpoints=host.endpoints,
            services=host.services,
            created_at=clock.rfc3339(host.created_at_ms),
            seen_at=clock.rfc3339(host.seen_at_ms) if host.seen_at_ms else None,
        )


class HostList(Out):
    """Hosts by region."""

    hosts: list[Host]


class MeshPeer(Out):
    """Another host as the asked one reaches it.

    Attributes:
        endpoint: Where packets to it go now; empty when that is not known.
        handshake_at: When WireGuard last shook hands with it; a session is renewed within three
            minutes while there is any traffic.
        silent: Nothing has been heard of it lately.
        rtt_ms: There and back, as edges measure it; `null` when nothing was measured.
    """

    host_id: str
    region: str
    endpoint: str
    handshake_at: str | None
    received_bytes: int
    sent_bytes: int
    silent: bool
    rtt_ms: float | None

    @classmethod
    def of(cls, seen: mesh.Seen) -> "MeshPeer":
        """Return one as the API shows it."""
        peer = seen.peer
        return cls(
            host_id=peer.host_id,
            region=seen.region,
            endpoint=peer.endpoint,
            handshake_at=clock.rfc3339(peer.handshake_s * 1_000) if peer.handshake_s else None,
            received_bytes=peer.received,
            sent_bytes=peer.sent,
            silent=peer.silent,
            rtt_ms=None if peer.rtt_us is None else peer.rtt_us / 1_000,
        )


class HostMesh(Out):
    """The mesh as one host sees it, by region."""

    host_id: str
    peers: list[MeshPeer]

    @classmethod
    def of(cls, host_id: str, seen: list[mesh.Seen]) -> "HostMesh":
        """Return it as the API shows it."""
        return cls(host_id=host_id, peers=[MeshPeer.of(one) for one in seen])


class LostMachine(Out):
    """A machine that was on a host when it was removed."""

    id: str
    name: str
    app_id: str
    org_id: str


class RemovedHost(Out):
    """A host that has no rights any more."""

    host_id: str
    lost: list[LostMachine]

    @classmethod
    def of(cls, removed: hosts.Removed) -> "RemovedHost":
        """Return what the API tells of it."""
        return cls(
            host_id=removed.host.id,
            lost=[
                LostMachine(id=row.machine_id, name=row.name, app_id=row.app_id, org_id=row.org_id)
                for row in removed.lost
            ],
        )


class CreateJoinToken(In):
    """A token for one server."""

    region: Annotated[str, Field(max_length=3)] = ""
    ttl_seconds: Annotated[int, Field(ge=1, le=joining.LONGEST_TTL_S)] = joining.DEFAULT_TTL_S
    control: bool = False

    def wanted(self) -> joining.NewJoinToken:
        """Return what control is asked."""
        return joining.NewJoinToken(self.region, self.ttl_seconds, self.control)


class OpenJoinToken(Out):
    """A token that a server may still join with."""

    id: str
    region: str | None
    created_by: str
    created_at: str
    expires_at: str

    @classmethod
    def of(cls, token: JoinToken) -> "OpenJoinToken":
        """Return a token as the API shows it."""
        return cls(
            id=token.id,
            region=token.region,
            created_by=token.created_by,
            created_at=clock.rfc3339(token.created_at_ms),
            expires_at=clock.rfc3339(token.expires_at_ms),
        )


class NewJoinToken(OpenJoinToken):
    """A token just made; `token` is shown this once."""

    token: str


class JoinTokenList(Out):
    """Tokens, the oldest first."""

    tokens: list[OpenJoinToken]
