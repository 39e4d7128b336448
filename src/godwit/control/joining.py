"""Servers join: tokens for it, and the one request that makes a server a member.

A token is good once, for whoever comes first with keys of its own; the same server may repeat its
request for an answer that was lost. Every refusal of a known token leaves an audit row: a stolen
one shows.
"""

import secrets
from dataclasses import dataclass, replace

from godwit.base import errors, ids, principal
from godwit.base.principal import Principal
from godwit.control import audit, fly_src_key, join_rules, members, replicas
from godwit.control.context import Context
from godwit.control.records import Host, JoinToken
from godwit.control.rows import Rows
from godwit.wire import joining
from godwit.wire import members as addresses
from godwit.wire.facts import MemberFact
from godwit.wire.joining import (
    BusAnswer,
    BusRequest,
    Invitation,
    JoinAnswer,
    JoinRequest,
    StandingAnswer,
)

DEFAULT_TTL_S = 3_600
LONGEST_TTL_S = 7 * 86_400
_PAGE = 200
_ME = principal.component("control")


@dataclass(frozen=True)
class NewJoinToken:
    """What the operator wants.

    Attributes:
        region: The only one the server may say; empty leaves it to who joins.
        control: Whether the server may run control: it is given the platform's keys then.
    """

    region: str = ""
    ttl_s: int = DEFAULT_TTL_S
    control: bool = False


async def create_token(
    ctx: Context, who: Principal, wanted: NewJoinToken
) -> tuple[JoinToken, str]:
    """Make a token for one server; return it and its text, which is shown this once.

    Raises:
        Failure: `permission_denied`, `invalid_argument`, `failed_precondition` while no joining
            endpoint is set up.
    """
    _require_operator(who)
    if not ctx.options.join_address:
        raise errors.Failure(
            "failed_precondition",
            "no server can join: the joining endpoint is off",
            hint="set GODWIT_LISTEN_JOIN (0.0.0.0:4281) and, where new servers reach it under"
            " another address, GODWIT_HOST_JOIN_ADDRESS; then `godwit upgrade`",
        )
    if wanted.region:
        join_rules.check_region(wanted.region)
    if not 1 <= wanted.ttl_s <= LONGEST_TTL_S:
        raise errors.invalid(f"ttl: must be from 1 s to {LONGEST_TTL_S // 86_400} days")
    if wanted.control:
        replicas.demand(ctx)
    invitation = Invitation(
        address=ctx.options.join_address,
        fingerprint=ctx.options.join_fingerprint,
        secret=(joining.CONTROL if wanted.control else "") + secrets.token_urlsafe(32),
    )
    now_ms = ctx.clock.now_ms()
    token = JoinToken(
        id=ids.tagged("jtk"),
        hash=invitation.digest,
        region=wanted.region or None,
        created_by=who.subject,
        created_at_ms=now_ms,
        expires_at_ms=now_ms + wanted.ttl_s * 1_000,
    )
    async with ctx.store.write() as rows:
        await rows.join_tokens.add(token)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "hosts.token",
            token.id,
            org_id=None,
            region=wanted.region,
            control=wanted.control,
        )
    return token, invitation.text()


async def open_tokens(ctx: Context, who: Principal) -> list[JoinToken]:
    """Return the tokens that a server may still join with.

    Raises:
        Failure: `permission_denied`.
    """
    _require_operator(who)
    async with ctx.store.read() as rows:
        return await rows.join_tokens.open(ctx.clock.now_ms())


async def revoke_token(ctx: Context, who: Principal, token_id: str) -> None:
    """Make a token worthless.

    Raises:
        Failure: `permission_denied`, `not_found` when nobody could have joined with it.
    """
    _require_operator(who)
    async with ctx.store.write() as rows:
        if not await rows.join_tokens.revoke(token_id, ctx.clock.now_ms()):
            raise errors.not_found(f"there is no open token {token_id!r} to join with")
        await audit.record(rows, ctx.clock, who, "hosts.token_revoke", token_id, org_id=None)


async def join(ctx: Context, signed: joining.Signed) -> JoinAnswer:
    """Make a server a member, or answer once more the one that just became it.

    Raises:
        Failure: `permission_denied` (the token or a signature), `invalid_argument`,
            `already_exists` (a key that another host has), `failed_precondition` (its clock).
    """
    request: JoinRequest = joining.read_body(signed, JoinRequest, "join")
    join_rules.check_request(request, joining.signers(signed))
    digest = Invitation(address="", fingerprint="", secret=request.secret).digest
    async with ctx.store.read() as rows:
        token = await rows.join_tokens.by_hash(digest)
    if token is None:
        raise join_rules.unknown_token()
    try:
        async with ctx.store.write() as rows:
            host = await _admit(ctx, rows, token.id, request)
    except errors.Failure as failure:
        await _record_refusal(ctx, token, request, failure)
        raise
    ctx.facts_wanted.set()
    return await _answer(ctx, host, request.edge_key)


async def serve_bus(ctx: Context, signed: joining.Signed) -> BusAnswer:
    """Have a member serve its region's bus beside others; or answer once more.

    It takes a token, since who serves a bus reads and writes all that goes over it.

    Raises:
        Failure: `permission_denied` (the token, a signature, or no member), `invalid_argument`,
            `failed_precondition` when the region has as many as it can have.
    """
    request: BusRequest = joining.read_body(signed, BusRequest, "bus")
    signers = joining.signers(signed)
    digest = Invitation(address="", fingerprint="", secret=request.secret).digest
    async with ctx.store.write() as rows:
        token = await rows.join_tokens.by_hash(digest)
        if token is None:
            raise join_rules.unknown_token()
        host = await rows.hosts.get(request.host_id)
        if (
            host is None
            or host.state == "removed"
            or not {host.public_key, request.key} <= signers
        ):
            raise errors.Failure(
                "permission_denied", f"no member {request.host_id} has these keys"
            )
        bearer = join_rules.Bearer(host.public_key, host.region, request.at_ms)
        join_rules.check_token(token, bearer, ctx.clock.now_ms())
        if "bus" not in host.roles:
            host = await _let_serve(ctx, rows, token, host, request)
    ctx.facts_wanted.set()
    return BusAnswer(
        roles=tuple(host.roles),
        bus_secret=joining.bus_secret(ctx.options.join_root, host.region),
        members=await _all_there_were(ctx),
    )


async def standing(ctx: Context, signed: joining.Signed) -> StandingAnswer:
    """Tell a host whether it still belongs; to one that does, also where the others are.

    Raises:
        Failure: `permission_denied`, `invalid_argument`.
    """
    request: joining.StandingRequest = joining.read_body(
        signed, joining.StandingRequest, "standing"
    )
    join_rules.check_clock(request.at_ms, ctx.clock.now_ms())
    signers = joining.signers(signed)
    async with ctx.store.read() as rows:
        host = await rows.hosts.get(request.host_id)
    if host is None or host.public_key not in signers:
        raise errors.Failure("permission_denied", f"no host {request.host_id} has that key")
    if host.state == "removed":
        return StandingAnswer(state="removed")
    return StandingAnswer(
        state=host.state,
        members=await _all_there_were(ctx),
        edge_chain=_vouched(ctx, host, request.edge_key),
        fly_src_key=_signing_key(ctx, host) if request.wants_fly_src_key else "",
    )


async def _record_refusal(
    ctx: Context, token: JoinToken, request: JoinRequest, failure: errors.Failure
) -> None:
    async with ctx.store.write() as rows:
        await audit.record(
            rows,
            ctx.clock,
            _ME,
            "hosts.join_refused",
            token.id,
            org_id=None,
            key=request.keys["host"],
            reason=failure.message,
        )


async def _admit(ctx: Context, rows: Rows, token_id: str, request: JoinRequest) -> Host:
    """Return the host that the server is, or becomes now; within the transaction."""
    token = await rows.join_tokens.by_id(token_id)
    if token is None:
        raise join_rules.unknown_token()
    bearer = join_rules.Bearer(request.keys["host"], request.region, request.at_ms)
    join_rules.check_token(token, bearer, ctx.clock.now_ms())
    known = await rows.hosts.by_key(request.keys["host"])
    if request.control:
        replicas.demand(ctx)
    if known is None:
        return await _add(ctx, rows, token, request)
    if known.state == "removed":
        raise errors.Failure(
            "permission_denied",
            f"this server was host {known.id}, which was removed",
            hint="move its data directory away and join again with a new token",
        )
    if token.host_id != known.id:
        raise errors.Failure(
            "already_exists", f"this server has joined as host {known.id}", hint="`godwit up`"
        )
    return known


async def _add(ctx: Context, rows: Rows, token: JoinToken, request: JoinRequest) -> Host:
    everybody = await rows.hosts.all()
    join_rules.check_new(token, request, everybody)
    now_ms = ctx.clock.now_ms()
    number = await rows.meta.next_number("hosts")
    roles = join_rules.roles(request, everybody)
    ports = {role: port for role, port in request.ports.items() if role in roles}
    address = request.address or str(addresses.mesh_address(number))
    host = await members.put(
        rows,
        Host(
            id=ids.host_id(),
            number=number,
            public_key=request.keys["host"],
            region=request.region,
            zone=request.zone,
            created_at_ms=now_ms,
            sealing_key=request.sealing_key,
            roles=roles,
            keys={
                name: key
                for name, key in request.keys.items()
                if join_rules.NEEDS.get(name, "agent") in roles
            },
            mesh_key=request.mesh_key,
            endpoints=list(request.endpoints),
            services=addresses.services(address, ports),
            release=request.release,
        ),
    )
    if not await rows.join_tokens.use(token.id, host.public_key, host.id, now_ms):
        raise errors.Failure("conflict", "another server is joining with this token")
    await audit.record(
        rows,
        ctx.clock,
        _ME,
        "hosts.join",
        host.id,
        org_id=None,
        region=host.region,
        zone=host.zone,
        token=token.id,
        endpoints=list(host.endpoints),
        roles=roles,
    )
    return host


async def _let_serve(
    ctx: Context, rows: Rows, token: JoinToken, host: Host, request: BusRequest
) -> Host:
    join_rules.check_bus(host, await rows.hosts.all())
    address = request.address or str(addresses.mesh_address(host.number))
    host = await members.put(
        rows,
        replace(
            host,
            roles=["bus", *host.roles],
            keys=host.keys | {"catalog": request.key},
            services=host.services | addresses.services(address, {"bus": request.port}),
        ),
    )
    if not await rows.join_tokens.use(token.id, host.public_key, host.id, ctx.clock.now_ms()):
        raise errors.Failure("conflict", "another server comes with this token")
    await audit.record(
        rows, ctx.clock, _ME, "hosts.serve_bus", host.id, org_id=None, token=token.id
    )
    return host


async def _answer(ctx: Context, host: Host, edge_key: str) -> JoinAnswer:
    everybody = await _everybody(ctx)
    at = next((m.services["registry"] for m in everybody if "registry" in m.services), None)
    return JoinAnswer(
        host_id=host.id,
        host_number=host.number,
        region=host.region,
        zone=host.zone,
        roles=tuple(host.roles),
        apps_domain=ctx.options.apps_domain,
        registry=joining.Registry(name=ctx.options.registry, at=at) if at else None,
        bus_secret=joining.bus_secret(ctx.options.join_root, host.region)
        if "bus" in host.roles
        else "",
        members=everybody,
        edge_chain=_vouched(ctx, host, edge_key),
        control=await replicas.parts(ctx, host),
        fly_src_key=_signing_key(ctx, host),
    )


def _vouched(ctx: Context, host: Host, edge_key: str) -> str:
    """Return what makes a key that of the host's edge, empty where there is none to vouch for."""
    if not edge_key or ctx.authority is None or "edge" not in host.roles:
        return ""
    return ctx.authority.vouch(edge_key, host.id, ctx.clock.now_ms())


def _signing_key(ctx: Context, host: Host) -> str:
    """Return what a host's edge signs `Fly-Src` with, empty where it has no edge."""
    return fly_src_key.read(ctx.options.keys) if "edge" in host.roles else ""


async def _everybody(ctx: Context) -> tuple[MemberFact, ...]:
    async with ctx.store.read() as rows:
        epoch = (await rows.meta.get()).epoch
        return tuple(members.fact(one, epoch) for one in await rows.hosts.all())


async def _all_there_were(ctx: Context) -> tuple[MemberFact, ...]:
    """Return the removed ones too, for a member that may not have heard of their removal."""
    found: list[MemberFact] = []
    number = 0
    while True:
        async with ctx.store.read() as rows:
            epoch = (await rows.meta.get()).epoch
            page = await rows.hosts.page(number, _PAGE)
        found += [members.fact(one, epoch) for one in page]
        if len(page) < _PAGE:
            return tuple(found)
        number = page[-1].number


def _require_operator(who: Principal) -> None:
    who.require("hosts:write")
    if who.org_ids is not None:
        raise errors.Failure("permission_denied", "only the operator lets servers join")
