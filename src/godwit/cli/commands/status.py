"""`godwit status`."""

from typing import Annotated, Any

import typer

from godwit.cli import connect, session, tables, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.client.api import Api
from godwit.client.records import App, Machine

app = tree.single()


@app.command(epilog=tree.examples("godwit status", "godwit status --app hello --json"))
def status(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    every: Annotated[bool, typer.Option("--all", help="Show destroyed machines too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show an app and its machines."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> tuple[App, list[Machine]]:
        found = await api.apps.get(name)
        return found, await api.machines.list(name, include_deleted=every)

    found, machines = connect.call(here, work)
    machines = sorted(machines, key=lambda one: (one.group(), one.region, one.id))
    summary = _summary(here, found, machines)
    if as_json or here.wants_json:
        here.out.json(
            {
                **found.model_dump(mode="json"),
                **summary,
                "machines": [one.model_dump(mode="json") for one in machines],
            }
        )
        return
    here.out.pairs(
        {
            "App": found.name,
            "Owner": found.organization.slug,
            "Status": found.status,
            "Address": summary["url"],
            "Image": summary["image"],
        }
    )
    here.out.data("")
    if machines:
        tables.machines(here, machines)
    else:
        here.out.data("no machines")
        here.out.hint(f"deploy with `godwit deploy --app {name}`")


def _summary(here: session.Session, found: App, machines: list[Machine]) -> dict[str, Any]:
    newest = max(machines, key=tables.release_of, default=None)
    return {
        "hostname": here.settings.hostname(found.name),
        "url": here.settings.app_url(found.name),
        "image": newest.image_ref.short() if newest else "",
    }
