"""`godwit status`."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from godwit.base import errors
from godwit.cli import connect, session, tables, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.cli.rollout import follow
from godwit.client.api import Api
from godwit.client.records import App, Deploy, Machine

app = tree.single()

_CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True)
class _Seen:
    """An app at one time."""

    app: App
    machines: list[Machine]
    deploy: Deploy | None


@app.command(
    epilog=tree.examples(
        "godwit status", "godwit status --app hello --json", "godwit status --watch --rate 2"
    )
)
def status(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    every: Annotated[bool, typer.Option("--all", help="Show destroyed machines too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew, until Ctrl-C.")] = False,
    rate: Annotated[
        int, typer.Option("--rate", metavar="SECONDS", min=1, max=3600, help="How often.")
    ] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show an app and its machines."""
    here = session.of(context)
    as_json = as_json or here.wants_json
    name = connect.app_name(here, app, config)
    if watch and as_json:
        raise errors.invalid("--watch and --json: one of them")

    async def work(api: Api) -> None:
        while True:
            seen = await _seen(api, name, every=every)
            if as_json:
                here.out.json(_record(here, seen))
                return
            if watch and here.out.lively:
                here.out.raw(_CLEAR)
            _tell(here, seen)
            if not watch:
                return
            here.out.raw("\n")  # and what was written before is seen now
            await here.clock.sleep(rate)

    connect.call(here, work)


async def _seen(api: Api, name: str, *, every: bool) -> _Seen:
    found = await api.apps.get(name)
    machines = await api.machines.list(name, include_deleted=every)
    machines = sorted(machines, key=lambda one: (one.group(), one.region, one.id))
    return _Seen(found, machines, await _running(api, name))


async def _running(api: Api, name: str) -> Deploy | None:
    """Return the deploy under way; none on a platform one release older, which cannot say."""
    try:
        return await follow.running(api, name)
    except errors.Failure as failure:
        if failure.code != "not_found":
            raise
        return None


def _record(here: session.Session, seen: _Seen) -> dict[str, Any]:
    deploy = seen.deploy
    return {
        **seen.app.model_dump(mode="json"),
        **_summary(here, seen),
        "deploy": deploy.model_dump(mode="json", exclude={"events", "plan"}) if deploy else None,
        "machines": [one.model_dump(mode="json") for one in seen.machines],
    }


def _tell(here: session.Session, seen: _Seen) -> None:
    summary = _summary(here, seen)
    shown = {
        "App": seen.app.name,
        "Owner": seen.app.organization.slug,
        "Status": seen.app.status,
        "Address": summary["url"],
        "Image": summary["image"],
    }
    if seen.deploy is not None:
        told = f": {seen.deploy.sentence}" if seen.deploy.sentence else ""
        number, user = seen.deploy.release.version, seen.deploy.user
        shown["Deploy"] = f"v{number} by {user}{told}"
    here.out.pairs(shown)
    here.out.data("")
    if seen.machines:
        tables.machines(here, seen.machines)
    else:
        here.out.data("no machines")
        here.out.hint(f"deploy with `godwit deploy --app {seen.app.name}`")


def _summary(here: session.Session, seen: _Seen) -> dict[str, Any]:
    newest = max(seen.machines, key=tables.release_of, default=None)
    return {
        "hostname": here.settings.hostname(seen.app.name),
        "url": here.settings.app_url(seen.app.name),
        "image": newest.image_ref.short() if newest else "",
    }
