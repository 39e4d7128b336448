"""What is asked of a machine that exists: passed on to its host, which decides."""

import shlex
from dataclasses import dataclass
from typing import Any

from godwit.base import errors
from godwit.base.principal import Principal, Scope
from godwit.control import audit, config_fields, machines, secrets
from godwit.control.context import Context
from godwit.control.records import Placement
from godwit.wire import host_rpc

STATES = ("started", "stopped", "suspended", "destroyed", "failed", "settled", "created")
SIGNALS = {
    "SIGHUP": 1,
    "SIGINT": 2,
    "SIGQUIT": 3,
    "SIGILL": 4,
    "SIGTRAP": 5,
    "SIGABRT": 6,
    "SIGFPE": 8,
    "SIGKILL": 9,
    "SIGUSR1": 10,
    "SIGSEGV": 11,
    "SIGUSR2": 12,
    "SIGPIPE": 13,
    "SIGALRM": 14,
    "SIGTERM": 15,
}
LONGEST_WAIT_S = 60
LONGEST_EXEC_S = 300
_MARGIN_S = 5.0
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Grace:
    """How a machine is asked to end; `None` is what its config says."""

    signal: str | None = None
    timeout_ms: int | None = None

    def body(self) -> dict[str, Any]:
        """Return what the host is told."""
        given = {"signal": self.signal, "timeout_ms": self.timeout_ms}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class Command:
    """One command to run in a machine.

    Attributes:
        container: Which of several containers it runs in; empty is the main one.
        machine: It runs beside the containers, in the machine itself.
    """

    argv: tuple[str, ...]
    stdin: str = ""
    timeout_s: float = 10.0
    container: str = ""
    machine: bool = False


def stop_signal(name: str | None) -> str | None:
    """Return a signal that may end a machine.

    Raises:
        Failure: `invalid_argument`.
    """
    if not name:
        return None
    spoken = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    if spoken not in config_fields.STOP_SIGNALS:
        raise errors.invalid(f"signal: must be one of {', '.join(config_fields.STOP_SIGNALS)}")
    return spoken


def any_signal(given: str | int) -> str:
    """Return a signal's name from its name or number.

    Raises:
        Failure: `invalid_argument`.
    """
    if isinstance(given, int):
        names = [name for name, number in SIGNALS.items() if number == given]
        spoken = names[0] if names else ""
    else:
        spoken = given.upper() if given.upper().startswith("SIG") else f"SIG{given.upper()}"
    if spoken not in SIGNALS:
        raise errors.invalid(f"signal: must be one of {', '.join(SIGNALS)}")
    return spoken


def command(argv: list[str] | None, line: str | None) -> tuple[str, ...]:
    """Return a command from its two forms: a list, or one line split as a shell would.

    Raises:
        Failure: `invalid_argument`.
    """
    if argv and line:
        raise errors.invalid("command: give command or cmd, not both")
    if line:
        try:
            argv = shlex.split(line)
        except ValueError as error:
            raise errors.invalid(f"cmd: {error}") from error
    if not argv:
        raise errors.invalid("command: is required")
    if any("\0" in part for part in argv):
        raise errors.invalid("command: holds a NUL byte")
    return tuple(argv)


async def start(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    *,
    min_secrets_version: int | None = None,
    nonce: str | None = None,
) -> str:
    """Start a machine, or resume one that is suspended; return the state it was in.

    Args:
        ctx: Control.
        who: Who asks.
        app_name: Whose machine.
        machine_id: Which one.
        min_secrets_version: The oldest secrets of the app that will do.
        nonce: Of the caller's lease.

    Raises:
        Failure: `failed_precondition` when it cannot be started now, or the app has no secrets
            that new; `conflict` when somebody else holds its lease.
    """
    asked: dict[str, Any] = under(nonce)
    if min_secrets_version:
        async with ctx.store.read() as rows:
            app, _ = await machines.locate(rows, who, "machines:write", app_name, machine_id)
            await secrets.require_version(rows, app, min_secrets_version)
        asked["min_secrets_version"] = min_secrets_version
    body = await act(ctx, who, app_name, machine_id, verb="start", body=asked)
    return str(body.get("previous_state", ""))


async def stop(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    grace: Grace,
    *,
    nonce: str | None = None,
) -> None:
    """Stop a machine; returns before it rests."""
    body = {**grace.body(), **under(nonce)}
    await act(ctx, who, app_name, machine_id, verb="stop", body=body)


async def suspend(
    ctx: Context, who: Principal, app_name: str, machine_id: str, *, nonce: str | None = None
) -> None:
    """Suspend a machine with its memory; returns before it rests.

    Raises:
        Failure: `failed_precondition` when it cannot be suspended.
    """
    await act(ctx, who, app_name, machine_id, verb="suspend", body=under(nonce))


async def restart(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    grace: Grace,
    *,
    nonce: str | None = None,
) -> None:
    """Stop and start a machine; returns before it runs."""
    body = {**grace.body(), **under(nonce)}
    await act(ctx, who, app_name, machine_id, verb="restart", body=body)


async def signal(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    name: str,
    *,
    nonce: str | None = None,
) -> None:
    """Send a signal to a machine's main process."""
    body = {"signal": name, **under(nonce)}
    await act(ctx, who, app_name, machine_id, verb="signal", body=body)


async def set_cordon(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    *,
    cordoned: bool,
    nonce: str | None = None,
) -> None:
    """Take a machine out of the edge's routing, or put it back."""
    verb = "cordon" if cordoned else "uncordon"
    await act(ctx, who, app_name, machine_id, verb=verb, body=under(nonce))


async def destroy(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    *,
    force: bool,
    nonce: str | None = None,
) -> None:
    """Destroy a machine, one that runs only with force; done already is no mistake.

    Raises:
        Failure: `failed_precondition` when it runs and force is not set.
    """
    async with ctx.store.read() as rows:
        _, row = await machines.locate(rows, who, "machines:write", app_name, machine_id)
    if row.destroyed_at_ms is not None:
        return
    try:
        body = {"force": force, **under(nonce)}
        await act(ctx, who, app_name, machine_id, verb="destroy", body=body)
    except errors.Failure as failure:
        if failure.code != "not_found":
            raise
        async with ctx.store.write() as rows:
            await rows.placements.mark_destroyed(machine_id, ctx.clock.now_ms())


async def wait(
    ctx: Context, who: Principal, app_name: str, request: host_rpc.WaitRequest
) -> host_rpc.WaitAnswer:
    """Wait for one of several states; a host that is away for a moment is asked again.

    Raises:
        Failure: `deadline_exceeded`; `conflict` when it will not come to that; `not_found` when
            the machine is gone.
    """
    async with ctx.store.read() as rows:
        _, row = await machines.locate(rows, who, "machines:read", app_name, request.machine_id)
    if row.destroyed_at_ms is not None:
        return _wait_for_the_gone(row, request)
    ends = ctx.clock.monotonic() + request.timeout_s
    while True:
        left = ends - ctx.clock.monotonic()
        asked = request.model_copy(update={"timeout_s": max(left, 0.0)})
        try:
            body = await ctx.hosts.call(
                machines.host_of(row), "machine.wait", asked, who, max(left, 0.0) + _MARGIN_S
            )
            return host_rpc.WaitAnswer.model_validate(body)
        except errors.Failure as failure:
            if failure.code == "failed_precondition":
                raise errors.Failure("conflict", failure.message, hint=failure.hint) from failure
            if failure.code != "unavailable" or left <= _PAUSE_S:
                raise
        await ctx.clock.sleep(_PAUSE_S)


async def execute(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    wanted: Command,
    *,
    nonce: str | None = None,
) -> host_rpc.ExecAnswer:
    """Run one command in a machine and return how it ended.

    Raises:
        Failure: `deadline_exceeded`, `failed_precondition` when the machine does not run,
            `conflict` when somebody else holds its lease.
    """
    request = host_rpc.ExecRequest(
        machine_id=machine_id,
        command=wanted.argv,
        stdin=wanted.stdin,
        timeout_s=wanted.timeout_s,
        container=wanted.container,
        machine=wanted.machine,
        nonce=nonce,
    )
    answer = await act(
        ctx,
        who,
        app_name,
        machine_id,
        verb="exec",
        body=request.model_dump(mode="json"),
        scope="machines:exec",
        timeout_s=wanted.timeout_s + _MARGIN_S,
        detail={"command": list(wanted.argv)[:8]},
    )
    return host_rpc.ExecAnswer.model_validate(answer)


async def events(
    ctx: Context, who: Principal, app_name: str, machine_id: str, *, limit: int
) -> list[host_rpc.MachineEvent]:
    """Return a machine's history, newest first; what is kept of it when its host is away."""
    async with ctx.store.read() as rows:
        _, row = await machines.locate(rows, who, "machines:read", app_name, machine_id)
    asked = {"machine_id": machine_id, "limit": limit}
    try:
        body = await ctx.hosts.call(
            machines.host_of(row), "machine.events", asked, who, ctx.options.ask_s
        )
        found = body.get("events", ())
    except errors.Failure as failure:
        if failure.code not in (*machines.SILENT, "not_found"):
            raise
        found = (row.view or {}).get("events", ())
    return [host_rpc.MachineEvent.model_validate(one) for one in found][:limit]


def under(nonce: str | None) -> dict[str, Any]:
    """Return what a request says of the lease it is made under."""
    return {"nonce": nonce} if nonce else {}


async def act(
    ctx: Context,
    who: Principal,
    app_name: str,
    machine_id: str,
    *,
    verb: str,
    body: dict[str, Any],
    scope: Scope = "machines:write",
    timeout_s: float | None = None,
    detail: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Pass a request on to the machine's host, its audit row written first.

    Args:
        ctx: Control.
        who: Who asks.
        app_name: Whose machine.
        machine_id: Which one.
        verb: Without `machine.`.
        body: What the host is asked.
        scope: What that takes.
        timeout_s: How long the host may take; the settings' time for a change when left out.
        detail: What the audit row says; the body but for the lease's nonce when left out.

    Raises:
        Failure: What the host says; `unavailable` when it is away.
    """
    async with ctx.store.write() as rows:
        app, row = await machines.locate(rows, who, scope, app_name, machine_id)
        if row.destroyed_at_ms is not None:
            raise errors.not_found(f"machine {machine_id} is destroyed")
        told = {key: value for key, value in body.items() if key != "nonce"}
        await audit.record(
            rows,
            ctx.clock,
            who,
            f"machines.{verb}",
            machine_id,
            org_id=app.org_id,
            app=app.name,
            **(told if detail is None else detail),
        )
    return await ctx.hosts.call(
        machines.host_of(row),
        f"machine.{verb}",
        {"machine_id": machine_id, **body},
        who,
        timeout_s or ctx.options.act_s,
    )


async def ask(
    ctx: Context, who: Principal, app_name: str, machine_id: str, verb: str
) -> dict[str, Any]:
    """Return what the machine's host alone knows of it.

    Raises:
        Failure: What the host says; `unavailable` when it is away.
    """
    async with ctx.store.read() as rows:
        _, row = await machines.locate(rows, who, "machines:read", app_name, machine_id)
    if row.destroyed_at_ms is not None:
        raise errors.not_found(f"machine {machine_id} is destroyed")
    asked = {"machine_id": machine_id}
    return await ctx.hosts.call(
        machines.host_of(row), f"machine.{verb}", asked, who, ctx.options.ask_s
    )


def _wait_for_the_gone(row: Placement, request: host_rpc.WaitRequest) -> host_rpc.WaitAnswer:
    if not {"destroyed", "settled"} & set(request.states):
        raise errors.not_found(f"machine {row.machine_id} is destroyed")
    known = (row.view or {}).get("events") or [{}]
    return host_rpc.WaitAnswer(
        state="destroyed", version=row.instance_id, event_id=str(known[0].get("id", ""))
    )
