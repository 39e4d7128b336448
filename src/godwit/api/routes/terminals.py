"""`/x/v1/apps/{app}/machines/{id}/terminals`: commands that somebody types into."""

from typing import Annotated

from fastapi import Path, Query

from godwit.api.routing import Ctx, Nonce, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.terminals import (
    Opened,
    OpenTerminal,
    TerminalOutput,
    Typed,
    WriteTerminal,
)
from godwit.control import terminals as service
from godwit.wire import terminals

ROUTER = router("Terminals")

_ALL = "/x/v1/apps/{app_name}/machines/{machine_id}/terminals"
_ONE = f"{_ALL}/{{terminal_id}}"

Id = Annotated[str, Path(max_length=64)]


@ROUTER.post(
    _ALL,
    operation_id="Terminals_open",
    openapi_extra=needs("machines:exec"),
    responses=ERRORS,
    status_code=201,
)
async def open_terminal(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: OpenTerminal, nonce: Nonce = None
) -> Opened:
    """Start a command in a machine and keep its output until it is read."""
    made = await service.open_one(ctx, who, app_name, body.wanted(machine_id, nonce))
    return Opened(id=made.terminal_id)


@ROUTER.get(
    _ONE,
    operation_id="Terminals_read",
    openapi_extra=needs("machines:exec"),
    responses=ERRORS,
)
async def read_terminal(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    terminal_id: Id,
    *,
    after: Annotated[int, Query(ge=0)] = 0,
    wait_s: Annotated[float, Query(ge=0, le=terminals.LONGEST_READ_S)] = 0,
) -> TerminalOutput:
    """Return output past byte `after`, waiting `wait_s` seconds for some; earlier is forgotten."""
    asked = terminals.ReadTerminal(
        machine_id=machine_id, terminal_id=terminal_id, after=after, wait_s=wait_s
    )
    answer = await service.read(ctx, who, app_name, asked)
    return TerminalOutput.model_validate(answer.model_dump(mode="json"))


@ROUTER.post(
    f"{_ONE}/input",
    operation_id="Terminals_write",
    openapi_extra=needs("machines:exec"),
    responses=ERRORS,
)
async def write_terminal(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    terminal_id: Id,
    *,
    body: WriteTerminal,
) -> Typed:
    """Type something, say that nothing more will be typed, or resize."""
    asked = terminals.WriteTerminal(
        machine_id=machine_id,
        terminal_id=terminal_id,
        at=body.at,
        data_base64=body.data_base64,
        eof=body.eof,
        window=None if body.window is None else body.window.told(),
    )
    return Typed(position=(await service.write(ctx, who, app_name, asked)).position)


@ROUTER.delete(
    _ONE,
    operation_id="Terminals_close",
    openapi_extra=needs("machines:exec"),
    responses=ERRORS,
    status_code=204,
)
async def close_terminal(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, terminal_id: Id
) -> None:
    """End a terminal and its command."""
    asked = terminals.OfTerminal(machine_id=machine_id, terminal_id=terminal_id)
    await service.close(ctx, who, app_name, asked)
