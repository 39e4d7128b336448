"""What a running machine says of its inside: its processes and its memory."""

from operator import attrgetter

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import machine_actions
from godwit.control.context import Context
from godwit.wire import host_rpc

SORT_KEYS = ("pid", "command", "directory", "cpu", "rss", "rtime", "stime")
ORDERS = ("asc", "desc")


async def processes(
    ctx: Context, who: Principal, app_name: str, machine_id: str, *, sort_by: str, order: str
) -> list[host_rpc.GuestProcess]:
    """Return a machine's processes, sorted.

    Raises:
        Failure: `invalid_argument`; `failed_precondition` when it does not run.
    """
    if sort_by not in SORT_KEYS:
        raise errors.invalid(f"sort_by: must be one of {', '.join(SORT_KEYS)}")
    if order.lower() not in ORDERS:
        raise errors.invalid(f"order: must be {' or '.join(ORDERS)}")
    body = await machine_actions.ask(ctx, who, app_name, machine_id, "ps")
    found = [host_rpc.GuestProcess.model_validate(one) for one in body.get("processes", ())]
    return sorted(found, key=attrgetter(sort_by, "pid"), reverse=order.lower() == "desc")


async def memory(ctx: Context, who: Principal, app_name: str, machine_id: str) -> host_rpc.Memory:
    """Return a machine's memory.

    Raises:
        Failure: `failed_precondition` when it does not run.
    """
    body = await machine_actions.ask(ctx, who, app_name, machine_id, "memory.get")
    return host_rpc.Memory.model_validate(body)


async def cpu(
    ctx: Context, who: Principal, app_name: str, machine_id: str
) -> host_rpc.CpuShare | None:
    """Return a running machine's CPU share; `None` where machines use what there is."""
    body = await machine_actions.ask(ctx, who, app_name, machine_id, "cpu")
    found = body.get("cpu")
    return None if found is None else host_rpc.CpuShare.model_validate(found)


async def set_memory(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    limit_mb: int,
    *,
    nonce: str | None = None,
) -> host_rpc.Memory:
    """Let a running machine use so much of its memory, at most what its guest may grow to.

    Raises:
        Failure: `invalid_argument`, `failed_precondition`.
    """
    body = {"limit_mb": limit_mb, **machine_actions.under(nonce)}
    answer = await machine_actions.act(
        ctx, who, app_name, machine_id, verb="memory.set", body=body
    )
    return host_rpc.Memory.model_validate(answer)


async def reclaim(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    amount_mb: int,
    *,
    nonce: str | None = None,
) -> int:
    """Take memory that a machine does not need; return how much came, in MB.

    Raises:
        Failure: `failed_precondition` when it does not run.
    """
    body = {"amount_mb": amount_mb, **machine_actions.under(nonce)}
    answer = await machine_actions.act(
        ctx, who, app_name, machine_id, verb="memory.reclaim", body=body
    )
    return int(answer.get("actual_mb", 0))
