"""What a server that joins has to be, say and hold. Pure; `control.joining` asks.

Every function raises a `Failure` that says what is wrong and what to do about it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from godwit.base import errors
from godwit.control import regions, replicas
from godwit.control.records import Host, JoinToken
from godwit.wire import joining
from godwit.wire.joining import JoinRequest
from godwit.wire.members import BUS_SERVERS

_CLOCK_MS = 300_000
_MOST_ENDPOINTS = 4
_PORT = range(1, 65_536)
_REGION = re.compile(r"[a-z]{3}")
_ZONE = re.compile(r"[0-9a-f]{4}")
_ENDPOINT = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:\s]{1,253}):([0-9]{1,5})", re.IGNORECASE)
_ALWAYS = ("agent", "edge", "dns")
_COMPONENTS = frozenset({"host", "edge", "dns", "catalog", "control"})
NEEDS = {"catalog": "bus", "control": "control"}
"""Components whose keys count only where a role says so."""
_PORTS = frozenset({"bus", "edge", "control"})
_ANEW = "make another one with `godwit host token`"


def check_region(region: str) -> None:
    """Refuse what has not the form of a region."""
    if not _REGION.fullmatch(region):
        raise errors.invalid("region: three lower-case letters, such as fra")


def check_request(request: JoinRequest, signers: Collection[str]) -> None:
    """Refuse what no server that joins would say."""
    _check_keys(request, signers)
    _check_control(request)
    check_region(request.region)
    if not _ZONE.fullmatch(request.zone):
        raise errors.invalid("zone: four hex digits, such as 00a1")
    _check_reach(request)


def _check_keys(request: JoinRequest, signers: Collection[str]) -> None:
    if not {"host", "edge", "dns"} <= set(request.keys) <= _COMPONENTS:
        raise errors.invalid("keys: host, edge and dns are needed, catalog and control may be")
    if len(set(request.keys.values())) != len(request.keys):
        raise errors.invalid("keys: every component has its own")
    if not set(signers) >= set(request.keys.values()):
        raise errors.Failure("permission_denied", "each of the keys has to sign the request")
    joining.parse_x25519(request.sealing_key)
    joining.parse_x25519(request.mesh_key)


def _check_control(request: JoinRequest) -> None:
    if not request.control:
        return
    if not request.secret.startswith(joining.CONTROL):
        raise errors.Failure(
            "permission_denied",
            "this token is not for a server that runs control",
            hint="make another one with `godwit host token --control`",
        )
    if "control" not in request.keys:
        raise errors.invalid("keys: that of control is missing")


def check_endpoints(endpoints: Sequence[str]) -> None:
    """Refuse what is not where a host's WireGuard can be reached."""
    if len(endpoints) > _MOST_ENDPOINTS:
        raise errors.invalid(f"endpoints: at most {_MOST_ENDPOINTS}")
    for endpoint in endpoints:
        found = _ENDPOINT.fullmatch(endpoint)
        if found is None or int(found[2]) not in _PORT:
            raise errors.invalid(
                f"endpoint: {endpoint!r} is no address:port", hint="--endpoint 198.51.100.7:51820"
            )


def _check_reach(request: JoinRequest) -> None:
    check_endpoints(request.endpoints)
    if request.address is not None:
        try:
            ip_address(request.address)
        except ValueError as error:
            raise errors.invalid(f"address: {request.address!r} is no IP address") from error
    if not set(request.ports) <= _PORTS or not all(one in _PORT for one in request.ports.values()):
        raise errors.invalid(f"ports: of {', '.join(sorted(_PORTS))}, from 1 to 65535")


def check_clock(at_ms: int, now_ms: int) -> None:
    """Refuse a server whose clock is far from the cluster's."""
    if abs(at_ms - now_ms) > _CLOCK_MS:
        off_s = round(abs(at_ms - now_ms) / 1_000)
        side = "ahead of" if at_ms > now_ms else "behind"
        raise errors.Failure(
            "failed_precondition",
            f"this server's clock is {off_s} s {side} the cluster's",
            hint="set it (`timedatectl set-ntp true`) and try again",
        )


@dataclass(frozen=True)
class Bearer:
    """Who comes with a token.

    Attributes:
        key: The nkey of the host.
        at_ms: What its clock says.
    """

    key: str
    region: str
    at_ms: int


def check_token(token: JoinToken, bearer: Bearer, now_ms: int) -> None:
    """Refuse a token that does not let this server in.

    Who has joined with it may say so again, also after it has expired.
    """
    used = token.used_at_ms is not None
    if used and token.used_by != bearer.key:
        raise errors.Failure(
            "permission_denied",
            "another server has joined with this token",
            hint="if that was not yours, take it out of the cluster with"
            f" `godwit host remove {token.host_id}`; {_ANEW}",
        )
    if token.revoked_at_ms is not None:
        raise errors.Failure("permission_denied", "this token was taken back", hint=_ANEW)
    if not used and token.expires_at_ms <= now_ms:
        raise errors.Failure("permission_denied", "this token has expired", hint=_ANEW)
    if token.region not in (None, bearer.region):
        raise errors.Failure(
            "permission_denied",
            f"this token is for the region {token.region}, not {bearer.region}",
            hint=f"join with --region {token.region}, or {_ANEW} --region {bearer.region}",
        )
    check_clock(bearer.at_ms, now_ms)


def unknown_token() -> errors.Failure:
    """Return the refusal of a token that was never made here."""
    return errors.Failure("permission_denied", "the cluster does not know this token", hint=_ANEW)


def check_new(token: JoinToken, request: JoinRequest, everybody: Sequence[Host]) -> None:
    """Refuse a region that nobody meant, and keys that a member has.

    With another's key somebody would speak, or be spoken to, in its place.
    """
    present = {host.region for host in everybody}
    meant = token.region is not None or request.region in present
    if not meant and not regions.is_known(request.region):
        raise errors.invalid(
            f"region: {request.region!r} is none that Godwit knows",
            hint=f"those with hosts: {', '.join(sorted(present))}; for a region of your own,"
            f" `godwit host token --region {request.region}`",
        )
    mine = {*request.keys.values(), request.mesh_key, request.sealing_key}
    for host in everybody:
        mesh = {host.mesh_key, host.mesh_next_key}
        if mine & {host.public_key, *host.keys.values(), *mesh, host.sealing_key}:
            raise errors.Failure(
                "already_exists",
                f"host {host.id} has a key that this server came with",
                hint="was a data directory copied? Join with an empty one",
            )


def check_bus(host: Host, everybody: Sequence[Host]) -> None:
    """Refuse one bus server more than a region has at most."""
    there = [one for one in everybody if one.region == host.region and "bus" in one.roles]
    if len(there) >= BUS_SERVERS:
        raise errors.Failure(
            "failed_precondition",
            f"the region {host.region} has {len(there)} bus servers:"
            f" {', '.join(one.id for one in there)}",
            hint="no more are of use; remove one of these hosts to have another one serve",
        )


def roles(request: JoinRequest, everybody: Sequence[Host]) -> list[str]:
    """Return what is to run on a new server: the first one of a region serves its bus."""
    servers = [one for one in everybody if one.region == request.region and "bus" in one.roles]
    bus = not servers or (request.bus and len(servers) < BUS_SERVERS)
    return [
        *(["bus"] if bus else []),
        *(replicas.ROLES if request.control else ()),
        *_ALWAYS,
    ]
