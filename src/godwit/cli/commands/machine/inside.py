"""`godwit machine ps|cpu|memory`."""

from datetime import timedelta
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session
from godwit.cli.options import AppOption, ConfigOption, JsonOption, MachineArgument
from godwit.client.api import Api
from godwit.client.records import Cpu, Memory, Process

SORT_KEYS = ("pid", "command", "directory", "cpu", "rss", "rtime", "stime")
_MIB = 1024 * 1024


def ps(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    sort_by: Annotated[
        str, typer.Option("--sort-by", metavar="KEY", help=f"One of {', '.join(SORT_KEYS)}.")
    ] = "pid",
    descending: Annotated[bool, typer.Option("--desc", help="The greatest first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the processes in a running machine and where they listen."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    if sort_by not in SORT_KEYS:
        raise errors.invalid(
            f'--sort-by: there is no key "{sort_by}"', hint=f"keys are {', '.join(SORT_KEYS)}"
        )

    async def work(api: Api) -> list[Process]:
        found = await connect.machine(api, name, machine)
        return await api.details.processes(name, found.id, sort_by=sort_by, descending=descending)

    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("pid", "cpu %", "memory mb", "runs for", "command", "listens on"),
        [
            (
                one.pid,
                f"{one.cpu:g}",
                f"{one.rss / _MIB:.1f}",
                timedelta(seconds=one.rtime),
                one.command,
                ", ".join(f"{at.proto} {at.address}" for at in one.listen_sockets),
            )
            for one in found
        ],
    )


def cpu(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what CPU a running machine is sure of, what it has saved, how long it was held back."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> Cpu:
        found = await connect.machine(api, name, machine)
        return await api.details.cpu(name, found.id)

    now = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(now.model_dump(mode="json"))
    elif now.baseline is None or now.balance is None or now.throttle is None:
        here.out.data("It uses what CPU there is, or does not run: its host holds it to nothing")
    else:
        here.out.pairs(
            {
                "Baseline": f"{now.baseline:g} CPUs",
                "Saved": f"{now.balance / 100:.2f} s",
                "Held back": f"{now.throttle / 100:.2f} s",
            }
        )


def memory(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="MB", min=1, help="Let it use so much.")
    ] = None,
    reclaim: Annotated[
        int | None,
        typer.Option("--reclaim", metavar="MB", min=1, help="Take so much back if it is idle."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how much memory a running machine may use, change it, or take some back."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> Memory:
        found = await connect.machine(api, name, machine)
        if reclaim is not None:
            came = await api.details.reclaim(name, found.id, reclaim)
            here.out.say(f"{found.id} gave back {came} MB")
        if limit is not None:
            return await api.details.set_memory(name, found.id, limit)
        return await api.details.memory(name, found.id)

    now = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(now.model_dump(mode="json"))
    else:
        here.out.pairs({"Limit": f"{now.limit_mb} MB", "Available": f"{now.available_mb} MB"})
