"""`godwit machine leases view|clear`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, times
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.client.api import Api
from godwit.client.records import Machine

MachinesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MACHINE]...", help="Machines, by id or name; all when left out."),
]


def view(
    context: typer.Context,
    machines: MachinesArgument = None,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who alone may change machines at the moment."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> list[Machine]:
        every = await api.machines.list(name, include_leases=True)
        if not machines:
            return every
        wanted = {one.id for one in await connect.machines(api, name, machines)}
        return [one for one in every if one.id in wanted]

    held = [(one, one.lease) for one in connect.call(here, work) if one.lease is not None]
    if as_json or here.wants_json:
        here.out.json([{"machine": one.id, **lease.model_dump()} for one, lease in held])
        return
    here.out.table(
        ("machine", "name", "owner", "description", "until"),
        [
            (
                one.id,
                one.name,
                lease.owner,
                lease.description,
                times.moment(lease.expires_at * 1000),
            )
            for one, lease in held
        ],
    )


def clear(
    context: typer.Context,
    machines: MachinesArgument = None,
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """End leases whoever holds them: their clients are gone and left them behind."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> None:
        named = connect.machines(api, name, machines) if machines else api.machines.list(name)
        for one in await named:
            there = await api.details.break_lease(name, one.id)
            here.out.say(f"{one.id} {'is free' if there else 'has no lease'}")

    connect.call(here, work)
