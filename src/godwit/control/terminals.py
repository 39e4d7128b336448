"""Terminals in machines: opened with an audit row, then passed on to the machine's host."""

from typing import Any

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import machine_actions, machines
from godwit.control.context import Context
from godwit.wire import terminals

_MARGIN_S = 5.0
_SHOWN_WORDS = 8


async def open_one(
    ctx: Context, who: Principal, app_name: str, wanted: terminals.OpenTerminal
) -> terminals.OfTerminal:
    """Start a command that somebody will type into.

    Raises:
        Failure: `failed_precondition` when the machine does not run, `invalid_argument` (no such
            program or user), `conflict` when somebody else holds its lease.
    """
    answer = await machine_actions.act(
        ctx,
        who,
        app_name,
        wanted.machine_id,
        verb="terminal.open",
        body=wanted.model_dump(mode="json"),
        scope="machines:exec",
        detail={"command": list(wanted.command)[:_SHOWN_WORDS]},
    )
    return terminals.OfTerminal.model_validate(answer)


async def read(
    ctx: Context, who: Principal, app_name: str, asked: terminals.ReadTerminal
) -> terminals.TerminalOutput:
    """Return a command's output past a position, as soon as there is some."""
    answer = await _pass_on(
        ctx, who, app_name, "read", asked=asked, timeout_s=asked.wait_s + _MARGIN_S
    )
    return terminals.TerminalOutput.model_validate(answer)


async def write(
    ctx: Context, who: Principal, app_name: str, asked: terminals.WriteTerminal
) -> terminals.Typed:
    """Type something; return how much of the input was taken so far."""
    answer = await _pass_on(ctx, who, app_name, "write", asked=asked, timeout_s=ctx.options.act_s)
    return terminals.Typed.model_validate(answer)


async def close(ctx: Context, who: Principal, app_name: str, asked: terminals.OfTerminal) -> None:
    """End a terminal and its command."""
    await _pass_on(ctx, who, app_name, "close", asked=asked, timeout_s=ctx.options.act_s)


async def _pass_on(
    ctx: Context,
    who: Principal,
    app_name: str,
    verb: str,
    *,
    asked: terminals.OfTerminal,
    timeout_s: float,
) -> dict[str, Any]:
    async with ctx.store.read() as rows:
        _, row = await machines.locate(rows, who, "machines:exec", app_name, asked.machine_id)
    if row.destroyed_at_ms is not None:
        raise errors.not_found(f"machine {asked.machine_id} is destroyed")
    return await ctx.hosts.call(
        machines.host_of(row), f"machine.terminal.{verb}", asked, who, timeout_s
    )
