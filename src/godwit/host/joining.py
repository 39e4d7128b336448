"""`godwit host join`: this server becomes a member of a cluster.

Its keys are made here and stay here; what goes out is their public halves, signed. Each part may
be done again: keys that are there are used, and an answer that was lost is asked for once more
with the same token. `host.json` comes last: with it, `godwit up` brings the host up.
"""

import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic

import godwit
from godwit.base import errors, private_files
from godwit.base.clock import Clock
from godwit.base.settings import ROLES, Role, Settings
from godwit.control import fly_src_key
from godwit.host import (
    cluster_certificate,
    control_parts,
    edge_keys,
    identity,
    membership,
)
from godwit.host.identity import HostIdentity
from godwit.wire import joining
from godwit.wire.joining import BusAnswer, Invitation, JoinAnswer, JoinRequest, StandingAnswer
from godwit.wire.record import Record

T = TypeVar("T", bound=Record)

_PATIENCE_S = 15.0
_MOST_BYTES = 64 * 1024**2
_ROLES: tuple[Role, ...] = ("bus", "agent", "edge", "dns")
"""What a server that joins may come to be."""
_CONTROL: tuple[Role, ...] = ("control", "keyring")
_BUS: tuple[Role, ...] = ("bus",)


class Cluster(Record):
    """`cluster.json`: how this host finds the joining endpoint again, and the registry.

    Attributes:
        address: `host:port` of the endpoint.
        fingerprint: SHA-256 of its certificate, in hex.
    """

    v: int = 1
    address: str
    fingerprint: str
    apps_domain: str
    registry: joining.Registry | None = None


@dataclass(frozen=True)
class Wanted:
    """What the operator says of this server.

    Attributes:
        endpoints: Where its WireGuard can be reached from outside, `address:port`.
        bus: Whether it is to serve its region's bus though another one does.
        control: Whether it is to run control as well.
    """

    region: str
    zone: str
    endpoints: tuple[str, ...]
    bus: bool = False
    control: bool = False

    @property
    def roles(self) -> tuple[Role, ...]:
        """Return what the server may come to be."""
        return (*_ROLES, *_CONTROL) if self.control else _ROLES


def join(settings: Settings, clock: Clock, token: str, wanted: Wanted) -> HostIdentity:
    """Make this server a member; return who it is.

    Raises:
        Failure: What the cluster says; `already_exists` when it is a host already,
            `unavailable` when the endpoint is not reached, `permission_denied` when who answers
            there is not the cluster.
    """
    invitation = Invitation.parse(token)
    data = settings.paths.data
    _demand_new(data)
    if not wanted.endpoints:
        raise errors.invalid(
            "where do other hosts reach this server? --endpoint is missing",
            hint="--endpoint 198.51.100.7:51820: its public address and a free UDP port",
        )
    said = settings.host.endpoints
    if said and said != wanted.endpoints:
        raise errors.invalid(
            f"--endpoint says {', '.join(wanted.endpoints)}, host.endpoints {', '.join(said)}",
            hint="the settings hold once it is a member: say the same there, or nothing",
        )
    (data / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o711)
    keys = identity.ensure_keys(data, wanted.roles)
    halves = identity.ensure_halves(data)
    request = JoinRequest(
        secret=invitation.secret,
        region=wanted.region,
        zone=wanted.zone,
        keys=keys.public,
        sealing_key=halves["sealing_key"],
        mesh_key=halves["mesh_key"],
        endpoints=wanted.endpoints,
        address=settings.host.address,
        ports=membership.ports(settings, wanted.roles),
        bus=wanted.bus,
        control=wanted.control,
        at_ms=clock.now_ms(),
        edge_key=edge_keys.public_key(data),
        release=godwit.__version__,
    )
    seeds = [keys.seed(name).read_text() for name in keys.public]
    text = _ask(invitation.address, invitation.fingerprint, joining.sign("join", request, seeds))
    answer = _read(JoinAnswer, text)
    if wanted.control and answer.control is None:
        raise errors.Failure(
            "failed_precondition",
            "the cluster's release does not let control run on further hosts",
            hint="upgrade its hosts first, then join with a new token",
        )
    return _keep(data, invitation, answer, halves, keys.public["host"])


def serve_bus(settings: Settings, clock: Clock, token: str) -> HostIdentity:
    """Make this host, a member, a server of its region's bus; return who it is then.

    Raises:
        Failure: What the cluster says; `failed_precondition` when it is no member,
            `already_exists` when it is a bus server, and as `join`.
    """
    invitation, data = Invitation.parse(token), settings.paths.data
    if not (data / "host.json").exists():
        raise errors.Failure(
            "failed_precondition",
            "this server is no host yet",
            hint="`godwit host join --bus` makes it one that serves its region's bus",
        )
    who = HostIdentity.model_validate_json((data / "host.json").read_text())
    if "bus" in who.roles:
        raise errors.Failure("already_exists", f"host {who.host_id} serves its region's bus")
    keys = identity.ensure_keys(data, (*who.roles, "bus"))
    request = joining.BusRequest(
        secret=invitation.secret,
        host_id=who.host_id,
        key=keys.public["catalog"],
        address=settings.host.address,
        port=membership.ports(settings, _BUS)["bus"],
        at_ms=clock.now_ms(),
    )
    seeds = [keys.seed(name).read_text() for name in ("host", "catalog")]
    signed = joining.sign("bus", request, seeds)
    answer = _read(BusAnswer, _ask(invitation.address, invitation.fingerprint, signed))
    membership.keep(data, answer.members)
    private_files.write(data / "keys" / "cluster.secret", answer.bus_secret + "\n")
    roles = tuple(role for role in ROLES if role in {*who.roles, "bus"})
    who = who.model_copy(update={"roles": roles})
    identity.write(data, who)
    return who


def waits_for_a_third(data: Path, who: HostIdentity) -> bool:
    """Tell whether this host's bus server does not serve yet, since there are too few."""
    members = membership.read(data)
    me = members.get(who.host_id)
    mine = None if me is None else me.services.get("bus")
    return mine is not None and mine not in membership.bus_servers(members.values(), who.region)


def standing(data: Path, clock: Clock) -> StandingAnswer | None:
    """Ask the cluster whether this host still belongs; `None` on one that never joined another.

    Raises:
        Failure: `unavailable` when the endpoint is not reached, `permission_denied` when it
            does not know this host.
    """
    cluster = read_cluster(data)
    if cluster is None:
        return None
    who = HostIdentity.model_validate_json((data / "host.json").read_text())
    now_ms = clock.now_ms()
    # Of a release before edges spoke TLS, or vouched for long ago.
    vouched = "edge" not in who.roles or not edge_keys.wanted(data, now_ms)
    asked = joining.StandingRequest(
        host_id=who.host_id,
        at_ms=now_ms,
        edge_key="" if vouched else edge_keys.public_key(data),
        wants_fly_src_key="edge" in who.roles and not fly_src_key.read(data / "keys"),
    )
    signed = joining.sign("standing", asked, [(data / "keys" / "host.seed").read_text()])
    answer = _read(StandingAnswer, _ask_any(_doors(data, cluster), cluster.fingerprint, signed))
    if answer.edge_chain:
        edge_keys.keep(data, answer.edge_chain)
    fly_src_key.keep(data / "keys", answer.fly_src_key)
    return answer


def _doors(data: Path, cluster: Cluster) -> list[str]:
    """Return where the joining endpoint may be: where it is said to be by now, where it was."""
    members = membership.read(data).values()
    said = [one.services.get("join") for one in members if one.state != "removed"]
    return list(dict.fromkeys([*filter(None, said), cluster.address]))


def _ask_any(addresses: list[str], fingerprint: str, signed: joining.Signed) -> bytes:
    """Send a signed request to the first of these addresses that is reached."""
    *others, last = addresses
    for address in others:
        try:
            return _ask(address, fingerprint, signed)
        except errors.Failure as failure:
            if failure.code != "unavailable":
                raise
    return _ask(last, fingerprint, signed)


def read_cluster(data: Path) -> Cluster | None:
    """Return how the cluster is found that this host joined; `None` on its first host."""
    path = data / "cluster.json"
    return Cluster.model_validate_json(path.read_text()) if path.exists() else None


def _demand_new(data: Path) -> None:
    if (data / "host.json").exists():
        known = HostIdentity.model_validate_json((data / "host.json").read_text())
        raise errors.Failure(
            "already_exists",
            f"this server is host {known.host_id} of region {known.region} already",
            hint=f"`godwit up` starts it. To join another cluster, or again after it was removed,"
            f" `godwit down`, then move {data} away",
        )


def _keep(
    data: Path, invitation: Invitation, answer: JoinAnswer, halves: dict[str, str], key: str
) -> HostIdentity:
    roles = tuple(role for role in ROLES if role in answer.roles)
    who = HostIdentity(
        host_id=answer.host_id,
        host_number=answer.host_number,
        region=answer.region,
        zone=answer.zone,
        epoch=1,
        public_key=key,
        roles=roles,
        **halves,
    )
    cluster = Cluster(
        address=invitation.address,
        fingerprint=invitation.fingerprint,
        apps_domain=answer.apps_domain,
        registry=answer.registry,
    )
    membership.keep(data, answer.members)
    if answer.edge_chain:
        edge_keys.keep(data, answer.edge_chain)
    fly_src_key.keep(data / "keys", answer.fly_src_key)
    if answer.bus_secret:
        private_files.write(data / "keys" / "cluster.secret", answer.bus_secret + "\n")
    if answer.control is not None:
        control_parts.keep(data, answer.control)
    private_files.write(data / "cluster.json", cluster.model_dump_json(indent=2) + "\n")
    identity.write(data, who)
    return who


def _ask(address: str, fingerprint: str, signed: joining.Signed) -> bytes:
    """Send a signed request to the endpoint, once it has shown the cluster's certificate."""
    host, _, port = address.rpartition(":")
    path = "/" + signed.kind
    # The token says which certificate it is; no authority is asked.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=_PATIENCE_S, context=context
    )
    try:
        connection.connect()
        shown = connection.sock.getpeercert(binary_form=True)
        if shown is None or cluster_certificate.fingerprint(shown) != fingerprint:
            raise errors.Failure(
                "permission_denied",
                f"what answers at {address} is not the cluster that the token is of",
                hint="somebody may be in between; check the address, or make another token",
            )
        body = signed.model_dump_json().encode()
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise errors.Failure(
            "unavailable",
            f"the cluster is not reached at {address}: {error}",
            hint="is `listen.join` set there, and the port open to this server?",
        ) from error
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return text
    raise _failure(address, text)


def _failure(address: str, text: bytes) -> errors.Failure:
    try:
        problem = joining.Problem.model_validate_json(text)
    except pydantic.ValidationError:
        return errors.Failure("unavailable", f"the answer of {address} cannot be read")
    return errors.Failure(problem.code, problem.message, hint=problem.hint)


def _read(kind: type[T], text: bytes) -> T:
    try:
        return kind.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise errors.Failure(
            "unavailable",
            "the cluster's answer cannot be read",
            hint="join with the cluster's release of Godwit",
        ) from error
