"""`godwit machine move`: a machine made anew in another region, or on another host of its own."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session
from godwit.cli.options import AppOption, ConfigOption, JsonOption, MachineArgument
from godwit.cli.rollout import overrides
from godwit.client.api import Api
from godwit.client.records import Move

_POLL_S = 1.0


def move(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    region: Annotated[
        str,
        typer.Option(
            "--region", "-r", metavar="CODE", help="Where to; else another host of its region."
        ),
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once; the platform goes on.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Leave it where it is, if it has not left yet.")
    ] = False,
    wait_timeout: Annotated[
        str, typer.Option("--wait-timeout", "-w", metavar="TIME", help="Seconds, or e.g. 5m.")
    ] = "5m",
    as_json: JsonOption = False,
) -> None:
    """Move a machine: it is made anew elsewhere, and destroyed once the new one is well.

    Its id, name and address change, its config does not; what it wrote to its own disk stays
    behind. What does not work for now is tried again, until it does or the move is cancelled.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    limit = overrides.seconds(wait_timeout, "--wait-timeout")

    async def cancelled(api: Api) -> str:
        found = await connect.machine(api, name, machine)
        await api.moves.cancel(name, found.id)
        return found.id

    async def moved(api: Api) -> Move:
        found = await connect.machine(api, name, machine)
        now = await api.moves.ask(name, found.id, region)
        here.out.say(f"{found.id} moves to {now.region}")
        return now if detach else await _until_moved(here, api, name, now, limit)

    if cancel:
        if region or detach:
            raise errors.invalid("--cancel goes with neither --region nor --detach")
        here.out.say(f"{connect.call(here, cancelled)} stays where it is")
        return
    done = connect.call(here, moved)
    if as_json or here.wants_json:
        here.out.json(done.model_dump(mode="json"))
    elif done.moved_to and not detach:
        here.out.data(done.moved_to)


async def _until_moved(
    here: session.Session, api: Api, app: str, move: Move, limit_s: float
) -> Move:
    """Return a move once it is over, and tell what keeps it.

    Raises:
        Failure: `conflict` when it was cancelled, `deadline_exceeded`.
    """
    ends, told = here.clock.monotonic() + limit_s, ""
    while move.state != "moved":
        if move.state == "cancelled":
            raise errors.Failure("conflict", f"the move was cancelled {move.problem}".rstrip())
        if move.problem != told:
            told = move.problem
            here.out.say(f"{move.machine_id} stays for now: {told}")
        if here.clock.monotonic() >= ends:
            raise errors.Failure(
                "deadline_exceeded",
                f"machine {move.machine_id} has not moved within {limit_s:g} s",
                hint="the platform goes on; `godwit machine move --cancel` gives it up",
            )
        await here.clock.sleep(_POLL_S)
        move = await api.moves.get(app, move.machine_id)
    here.out.say(f"{move.moved_to} in {move.region} takes the place of {move.machine_id}")
    return move
