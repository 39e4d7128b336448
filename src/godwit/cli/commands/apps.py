"""`godwit apps`."""

from typing import Annotated

import typer

from godwit.appconfig import files, writing
from godwit.base import errors, ids
from godwit.cli import connect, restarting, session, tree
from godwit.cli.commands import open_, releases
from godwit.cli.launch import naming
from godwit.cli.options import AppOption, ConfigOption, JsonOption, OrgOption, YesOption
from godwit.cli.scale import fleet
from godwit.client.api import Api

app = tree.group("Create, list, restart, open and destroy apps.")


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


@app.command(
    epilog=tree.examples(
        "godwit apps create hello",
        "godwit apps create --generate-name -o acme",
        "godwit apps create hello --save",
    )
)
def create(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Lower-case letters, digits, -.")
    ] = None,
    *,
    named: Annotated[str | None, typer.Option("--name", help="The same as an option.")] = None,
    generate_name: Annotated[
        bool, typer.Option("--generate-name", help="Have a free name found.")
    ] = False,
    org: OrgOption = None,
    network: Annotated[
        str, typer.Option("--network", help="Private network of its own.", show_default=False)
    ] = "",
    save: Annotated[bool, typer.Option("--save", help="Write the name into fly.toml.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create an app, without machines."""
    here = session.of(context)
    wanted = _wanted_name(name or named, generate=generate_name)

    async def work(api: Api) -> dict[str, object]:
        slug = await connect.organization(here, api, org)
        made = await api.apps.create(wanted, slug, network=network)
        return made.model_dump(mode="json")

    made = connect.call(here, work)
    if save:
        _save_name(here, wanted)
    if as_json or here.wants_json:
        here.out.json(made)
        return
    here.out.data(str(made["name"]))
    here.out.hint(f"deploy to it with `godwit deploy --app {wanted}`")


def _wanted_name(name: str | None, *, generate: bool) -> str:
    if name is None:
        if not generate:
            raise errors.invalid("which name?", hint="give one, or pass --generate-name")
        return naming.with_suffix("")
    if generate:
        raise errors.invalid("--generate-name: a name is given as well")
    if not ids.is_app_name(name):
        raise errors.invalid(
            f'"{name}" cannot be the name of an app',
            hint="names have lower-case letters, digits and -, at most 63 of them",
        )
    return name


def _save_name(here: session.Session, name: str) -> None:
    path = here.directory / files.NAMES[0]
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if path.is_file() and not files.load(path).document:
        raise errors.invalid(f"{path} cannot be read, so the name was not written into it")
    path.write_text(writing.changed(text, {"app": name}), encoding="utf-8")
    here.out.say(f"Wrote the name to {path}")


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
    skip_health_checks: Annotated[
        bool, typer.Option("--skip-health-checks", help="Do not wait for their checks.")
    ] = False,
) -> None:
    """Restart the started machines of an app, one after another.

    Those of process groups only; a machine has to be well again before the next is touched.
    """
    here = session.of(context)
    chosen = connect.app_name(here, name or app, config)
    how = restarting.How(force=force_stop, well=not skip_health_checks)

    async def work(api: Api) -> int:
        await api.apps.get(chosen)
        managed = fleet.managed(await api.machines.list(chosen))
        started = [one for one in managed if one.state == "started"]
        for one in started:
            here.out.say(f"restarting {one.id}")
            await restarting.restart(here, api, chosen, one, how)
        return len(started)

    count = connect.call(here, work)
    here.out.say(f"restarted {count} machine{'' if count == 1 else 's'}")


@app.command(epilog=tree.examples("godwit apps move hello --org acme"))
def move(
    context: typer.Context,  # noqa: ARG001 - every command has it
    name: Annotated[str, typer.Argument(metavar="NAME", help="The app.")],
    org: OrgOption = None,
) -> None:
    """Move an app to another organization; that comes later, and is refused."""
    raise errors.Failure(
        "failed_precondition",
        f"{name} cannot move to {org or 'another organization'}: apps cannot be moved yet",
        hint="deploy the same folder as an app of the other organization: "
        "`godwit launch --org ORG`",
    )


app.command(
    "open", epilog=tree.examples("godwit apps open --app hello", "godwit apps open /healthz")
)(open_.open_)
app.command("releases", epilog=tree.examples("godwit apps releases --app hello --image"))(
    releases.list_
)
