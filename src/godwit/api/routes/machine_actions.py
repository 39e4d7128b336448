"""`/v1/apps/{app}/machines/{id}/…`: what is done to a machine."""

from typing import Annotated

from fastapi import Query

from godwit.api.routing import Ctx, Nonce, Who, needs, router
from godwit.api.schemas.common import ERRORS, Done
from godwit.api.schemas.machines import (
    ExecMachine,
    Grace,
    Ran,
    SignalMachine,
    Started,
    StartMachine,
    StopMachine,
    Waited,
)
from godwit.base import errors
from godwit.control import machine_actions
from godwit.wire import host_rpc

ROUTER = router("Machines")

_ONE = "/v1/apps/{app_name}/machines/{machine_id}"


@ROUTER.post(
    f"{_ONE}/start",
    operation_id="Machines_start",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def start_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    body: StartMachine | None = None,
    nonce: Nonce = None,
) -> Started:
    """Start a machine, or resume a suspended one; returns before it runs."""
    least = (body or StartMachine()).min_secrets_version
    previous = await machine_actions.start(
        ctx, who, app_name, machine_id, min_secrets_version=least, nonce=nonce
    )
    return Started(previous_state=previous)


@ROUTER.post(
    f"{_ONE}/stop",
    operation_id="Machines_stop",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
)
async def stop_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    body: StopMachine | None = None,
    nonce: Nonce = None,
) -> Done:
    """Stop a machine; returns before it rests."""
    grace = (body or StopMachine()).grace()
    await machine_actions.stop(ctx, who, app_name, machine_id, grace, nonce=nonce)
    return Done()


@ROUTER.post(
    f"{_ONE}/suspend",
    operation_id="Machines_suspend",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
)
async def suspend_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, nonce: Nonce = None
) -> Done:
    """Suspend a machine with its memory; returns before it rests, `start` resumes it."""
    await machine_actions.suspend(ctx, who, app_name, machine_id, nonce=nonce)
    return Done()


@ROUTER.post(
    f"{_ONE}/restart",
    operation_id="Machines_restart",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
)
async def restart_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    grace: Annotated[Grace | None, Query(alias="timeout")] = None,
    signal: Annotated[str | None, Query(max_length=20)] = None,
    force_stop: bool = False,
    nonce: Nonce = None,
) -> Done:
    """Restart a machine; `timeout` is a duration or seconds; `force_stop` kills at once."""
    name = "SIGKILL" if force_stop else machine_actions.stop_signal(signal)
    how = machine_actions.Grace(name, grace)
    await machine_actions.restart(ctx, who, app_name, machine_id, how, nonce=nonce)
    return Done()


@ROUTER.post(
    f"{_ONE}/signal",
    operation_id="Machines_signal",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
)
async def signal_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: SignalMachine, nonce: Nonce = None
) -> Done:
    """Send a signal, by name or number, to a machine's main process."""
    name = machine_actions.any_signal(body.signal)
    await machine_actions.signal(ctx, who, app_name, machine_id, name, nonce=nonce)
    return Done()


@ROUTER.post(
    f"{_ONE}/exec",
    operation_id="Machines_exec",
    openapi_extra=needs("machines:exec"),
    responses=ERRORS,
)
async def exec_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: ExecMachine, nonce: Nonce = None
) -> Ran:
    """Run one command in a machine and return how it ended; 408 past its deadline."""
    wanted = body.wanted()
    answer = await machine_actions.execute(ctx, who, app_name, machine_id, wanted, nonce=nonce)
    return Ran(**answer.model_dump())


@ROUTER.get(
    f"{_ONE}/wait",
    operation_id="Machines_wait",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def wait_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    state: Annotated[list[str], Query(max_length=10)] = [],  # noqa: B006 - never written to
    version: Annotated[str, Query(max_length=26)] = "",
    instance_id: Annotated[str, Query(max_length=26)] = "",
    from_event_id: Annotated[str, Query(max_length=40)] = "",
    seconds: Annotated[int, Query(alias="timeout", ge=0)] = machine_actions.LONGEST_WAIT_S,
) -> Waited:
    """Wait until a machine is in one of some states; 408 when the time is over first.

    `state` is given several times or as a comma list; `settled` is any state that lasts.
    """
    request = host_rpc.WaitRequest(
        machine_id=machine_id,
        states=_states(state),
        version=version or instance_id or None,
        from_event_id=from_event_id or None,
        timeout_s=min(seconds or machine_actions.LONGEST_WAIT_S, machine_actions.LONGEST_WAIT_S),
    )
    answer = await machine_actions.wait(ctx, who, app_name, request)
    return Waited(event_id=answer.event_id, state=answer.state, version=answer.version)


@ROUTER.post(
    f"{_ONE}/cordon",
    operation_id="Machines_cordon",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
)
async def cordon_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, nonce: Nonce = None
) -> Done:
    """Take a machine out of the edge's routing."""
    await machine_actions.set_cordon(ctx, who, app_name, machine_id, cordoned=True, nonce=nonce)
    return Done()


@ROUTER.post(
    f"{_ONE}/uncordon",
    operation_id="Machines_uncordon",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
)
async def uncordon_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, nonce: Nonce = None
) -> Done:
    """Put a machine back into the edge's routing."""
    await machine_actions.set_cordon(ctx, who, app_name, machine_id, cordoned=False, nonce=nonce)
    return Done()


def _states(given: list[str]) -> tuple[str, ...]:
    found = [part for one in given for part in one.split(",") if part] or ["started"]
    unknown = sorted(set(found) - set(machine_actions.STATES))
    if unknown:
        raise errors.invalid(
            f"state: unknown {', '.join(unknown)[:200]}; there are"
            f" {', '.join(machine_actions.STATES)}"
        )
    return tuple(dict.fromkeys(found))
