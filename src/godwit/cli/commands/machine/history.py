"""`godwit machine events|versions`."""

from typing import Annotated

import typer

from godwit.cli import connect, session
from godwit.cli.commands.machine import look
from godwit.cli.options import AppOption, ConfigOption, JsonOption, MachineArgument
from godwit.client.api import Api
from godwit.client.records import Event, Version

_MOST = 50


def events(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=_MOST, help="How many.")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to a machine, newest first."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> list[Event]:
        found = await connect.machine(api, name, machine)
        return await api.machines.events(name, found.id, limit=limit)

    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
    else:
        look.event_table(here, found)


def versions(
    context: typer.Context,
    machine: MachineArgument,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the versions of a machine's config, newest first; with --json the configs too."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> list[Version]:
        found = await connect.machine(api, name, machine)
        return await api.details.versions(name, found.id)

    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("version", "image", "release"),
        [
            (
                one.version,
                one.user_config.get("image", ""),
                (one.user_config.get("metadata") or {}).get("fly_release_version", ""),
            )
            for one in found
        ],
    )
