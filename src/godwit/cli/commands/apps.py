"""`godwit apps`."""

import asyncio
from typing import Annotated

import typer

from godwit.base import errors, ids
from godwit.cli import connect, session, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption, OrgOption, YesOption
from godwit.client.api import Api

app = tree.group("Create, list, restart and destroy apps.")

_RESTART_S = 300.0


@app.command("list", epilog=tree.examples("godwit apps list", "godwit apps list -o acme --json"))
def list_(
    context: typer.Context,
    org: OrgOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print names only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List apps: of one organization, or of all you are in."""
    here = session.of(context)

    async def work(api: Api) -> list[dict[str, object]]:
        slugs = [org] if org else [one.slug for one in await api.orgs.list()]
        return [
            {**one.model_dump(mode="json"), "url": here.settings.app_url(one.name)}
            for slug in slugs
            for one in await api.apps.list(slug)
        ]

    org = org or here.environ.get("FLY_ORG")
    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(found)
    elif quiet:
        for one in found:
            here.out.data(str(one["name"]))
    else:
        here.out.table(("name", "owner", "status", "machines"), [_row(one) for one in found])


def _row(one: dict[str, object]) -> tuple[object, ...]:
    owner = one["organization"]
    slug = owner.get("slug") if isinstance(owner, dict) else ""
    return (one["name"], slug, one["status"], one["machine_count"])


@app.command(epilog=tree.examples("godwit apps create hello", "godwit apps create hello -o acme"))
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, -.")],
    org: OrgOption = None,
    network: Annotated[
        str, typer.Option("--network", help="Private network of its own.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Create an app, without machines."""
    here = session.of(context)
    if not ids.is_app_name(name):
        raise errors.invalid(
            f'"{name}" cannot be the name of an app',
            hint="names have lower-case letters, digits and -, at most 63 of them",
        )

    async def work(api: Api) -> dict[str, object]:
        slug = await connect.organization(here, api, org)
        made = await api.apps.create(name, slug, network=network)
        return made.model_dump(mode="json")

    made = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(made)
        return
    here.out.data(str(made["name"]))
    here.out.hint(f"deploy to it with `godwit deploy --app {name}`")


@app.command(epilog=tree.examples("godwit apps destroy hello", "godwit apps destroy a b --yes"))
def destroy(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The apps.")],
    yes: YesOption = False,
) -> None:
    """Destroy apps: their machines, releases and images."""
    here = session.of(context)
    what = f"the app {names[0]}" if len(names) == 1 else f"the apps {', '.join(names)}"
    here.confirm(f"Destroy {what} with everything in it?", yes=yes)

    async def work(api: Api) -> None:
        for name in names:
            await api.apps.delete(name)
            here.out.say(f"destroyed {name}")

    connect.call(here, work)


@app.command(epilog=tree.examples("godwit apps restart", "godwit apps restart hello"))
def restart(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The app.")] = None,
    app: AppOption = None,
    config: ConfigOption = None,
    force_stop: Annotated[
        bool, typer.Option("--force-stop", help="Kill instead of stopping.")
    ] = False,
) -> None:
    """Restart the started machines of an app, one after another."""
    here = session.of(context)
    chosen = connect.app_name(here, name or app, config)

    async def work(api: Api) -> int:
        started = [one for one in await api.machines.list(chosen) if one.state == "started"]
        for one in started:
            here.out.say(f"restarting {one.id}")
            await api.machines.restart(chosen, one.id, force=force_stop)
            async with asyncio.timeout(_RESTART_S):
                await _until_started(api, chosen, one.id)
        return len(started)

    count = connect.call(here, work)
    here.out.say(f"restarted {count} machine{'' if count == 1 else 's'}")


async def _until_started(api: Api, app_name: str, machine_id: str) -> None:
    while True:
        try:
            await api.machines.wait(app_name, machine_id, ["started"])
        except errors.Failure as failure:
            if failure.code != "deadline_exceeded":
                raise
        else:
            return
