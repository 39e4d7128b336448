"""Leases: for a time, one client alone may change a machine. Its host is the only judge.

Here a lease is asked for, prolonged, given back and, by who may write, broken.
"""

from dataclasses import dataclass

from godwit.base import clock, errors, principal
from godwit.base.principal import Principal
from godwit.control import audit, machine_actions, machines
from godwit.control.context import Context
from godwit.control.records import Placement
from godwit.wire import host_rpc

DEFAULT_TTL_S = 120
LONGEST_TTL_S = 86_400
_ME = principal.component("control")


@dataclass(frozen=True)
class NewLease:
    """What a caller wants.

    Attributes:
        nonce: Of the lease it holds and prolongs.
    """

    ttl_s: int = DEFAULT_TTL_S
    description: str = ""
    nonce: str | None = None


class Held(errors.Failure):
    """Somebody else has the machine's lease.

    Attributes:
        lease: Theirs, without its nonce; `None` when it has ended meanwhile.
    """

    def __init__(self, lease: host_rpc.Lease | None, message: str) -> None:
        if lease is not None:
            until = clock.rfc3339(lease.expires_at * 1000)
            message = f"lease currently held by {lease.owner}, expires at {until}"
        super().__init__(
            "conflict",
            message,
            hint="wait for its end; `godwit machine leases clear` ends one that was left behind",
        )
        self.lease = None if lease is None else _without_nonce(lease)


async def get(ctx: Context, who: Principal, app_name: str, machine_id: str) -> host_rpc.Lease:
    """Return a machine's lease; its nonce only to who may change the machine.

    Whoever may could end the lease anyway: public clients do that with the nonce they find here.

    Raises:
        Failure: `not_found` when nobody has it.
    """
    async with ctx.store.read() as rows:
        _, row = await machines.locate(rows, who, "machines:read", app_name, machine_id)
    found = await _find(ctx, row)
    if found is None:
        raise _nobody_holds_it()
    return found if "machines:write" in who.scopes else _without_nonce(found)


async def acquire(
    ctx: Context, who: Principal, app_name: str, machine_id: str, wanted: NewLease
) -> host_rpc.Lease:
    """Take a machine's lease, or prolong one's own; return it with its nonce.

    Prolonging leaves no audit row: a deploy does it every few seconds.

    Raises:
        Held: Somebody else has it.
    """
    request = host_rpc.LeaseRequest(
        machine_id=machine_id,
        ttl_s=wanted.ttl_s,
        description=wanted.description,
        owner=who.subject,
        nonce=wanted.nonce,
    )
    try:
        if wanted.nonce is None:
            return await _take(ctx, who, app_name, request)
        lease = await _prolong(ctx, who, app_name, request)
    except errors.Failure as failure:
        if failure.code != "conflict":
            raise
        async with ctx.store.read() as rows:
            _, row = await machines.locate(rows, who, "machines:write", app_name, machine_id)
        raise Held(await _find(ctx, row), failure.message) from failure
    return lease


async def release(
    ctx: Context, who: Principal, app_name: str, machine_id: str, nonce: str | None
) -> None:
    """Give a lease back.

    Raises:
        Failure: `invalid_argument` without a nonce; `conflict` when it is not the lease's.
    """
    async with ctx.store.read() as rows:
        await machines.locate(rows, who, "machines:write", app_name, machine_id)
    if not nonce:
        raise errors.invalid(
            "fly-machine-lease-nonce: is required",
            hint="send the nonce you were given with the lease",
        )
    await machine_actions.act(
        ctx, who, app_name, machine_id, verb="lease.release", body={"nonce": nonce}
    )


async def end(ctx: Context, who: Principal, app_name: str, machine_id: str) -> None:
    """Break a lease whoever holds it: its client is gone and left it behind.

    Raises:
        Failure: `not_found` when nobody has it.
    """
    async with ctx.store.read() as rows:
        app, row = await machines.locate(rows, who, "machines:write", app_name, machine_id)
    if await _find(ctx, row) is None:
        raise _nobody_holds_it()
    async with ctx.store.write() as rows:
        await audit.record(
            rows,
            ctx.clock,
            who,
            "machines.lease.break",
            machine_id,
            org_id=app.org_id,
            app=app.name,
        )
    asked = {"machine_id": machine_id}
    host_id = machines.host_of(row)
    # The platform's own word needs no nonce.
    await ctx.hosts.call(host_id, "machine.lease.release", asked, _ME, ctx.options.act_s)


async def _take(
    ctx: Context, who: Principal, app_name: str, request: host_rpc.LeaseRequest
) -> host_rpc.Lease:
    body = await machine_actions.act(
        ctx,
        who,
        app_name,
        request.machine_id,
        verb="lease.acquire",
        body=request.model_dump(mode="json"),
        detail={"ttl_s": request.ttl_s, "description": request.description},
    )
    return host_rpc.Lease.model_validate(body["lease"])


async def _prolong(
    ctx: Context, who: Principal, app_name: str, request: host_rpc.LeaseRequest
) -> host_rpc.Lease:
    async with ctx.store.read() as rows:
        app, row = await machines.locate(rows, who, "machines:write", app_name, request.machine_id)
    body = await ctx.hosts.call(
        machines.host_of(row), "machine.lease.acquire", request, who, ctx.options.act_s
    )
    lease = host_rpc.Lease.model_validate(body["lease"])
    if lease.nonce != request.nonce:
        # The one it meant had ended: this is another one.
        async with ctx.store.write() as rows:
            await audit.record(
                rows,
                ctx.clock,
                who,
                "machines.lease.acquire",
                request.machine_id,
                org_id=app.org_id,
                app=app.name,
                ttl_s=request.ttl_s,
                description=request.description,
            )
    return lease


async def _find(ctx: Context, row: Placement) -> host_rpc.Lease | None:
    """Return the lease that is held; who asks was let in to the machine before."""
    if row.destroyed_at_ms is not None:
        return None
    asked = {"machine_id": row.machine_id}
    host_id = machines.host_of(row)
    body = await ctx.hosts.call(host_id, "machine.lease.get", asked, _ME, ctx.options.ask_s)
    if body.get("lease") is None:
        return None
    return host_rpc.Lease.model_validate(body["lease"])


def _nobody_holds_it() -> errors.Failure:
    return errors.not_found("lease not found")


def _without_nonce(lease: host_rpc.Lease) -> host_rpc.Lease:
    return lease.model_copy(update={"nonce": None})
