"""`godwit machine metadata show|set|unset`."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session
from godwit.cli.options import AppOption, ConfigOption, JsonOption, MachineArgument
from godwit.cli.rollout import overrides
from godwit.client.api import Api


def show(
    context: typer.Context,
    machine: MachineArgument,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a machine's metadata."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> dict[str, str]:
        found = await connect.machine(api, name, machine)
        return await api.details.metadata(name, found.id)

    values = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(values)
    else:
        here.out.table(("key", "value"), sorted(values.items()))


def set_(
    context: typer.Context,
    machine: MachineArgument,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="What to set.")],
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Set keys of a machine's metadata; it is not restarted."""
    values = overrides.pairs(pairs, "KEY=VALUE")
    if not all(values.values()):
        raise errors.invalid(
            "an empty value removes the key", hint="use `godwit machine metadata unset` for that"
        )
    _change(context, app, config, machine, dict(values))


def unset(
    context: typer.Context,
    machine: MachineArgument,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="What to remove.")],
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove keys of a machine's metadata; it is not restarted."""
    _change(context, app, config, machine, dict.fromkeys(keys))


def _change(
    context: typer.Context,
    app: str | None,
    config: str | None,
    machine: str,
    values: dict[str, str | None],
) -> None:
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> str:
        found = await connect.machine(api, name, machine)
        await api.details.set_metadata(name, found.id, values)
        return found.id

    here.out.say(f"{connect.call(here, work)} has the new metadata")
