"""`godwit image show`."""

import typer

from godwit.cli import connect, session, tables, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.client.api import Api
from godwit.client.records import Machine

app = tree.group("Show the images of an app's machines.")

_VERSION = "fly.version"
_SHOWN = len("sha256:") + 12


@app.callback()
def image() -> None:
    """Show the images of an app's machines."""


@app.command(epilog=tree.examples("godwit image show", "godwit image show --app hello --json"))
def show(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the image of each machine: where it is from, its digest, its labels.

    The digest is cut; --json has the whole.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> list[Machine]:
        await api.apps.get(name)
        return await api.machines.list(name)

    found = sorted(connect.call(here, work), key=lambda one: (one.group(), one.id))
    if as_json or here.wants_json:
        here.out.json(
            [
                {
                    "machine": one.id,
                    "group": one.group(),
                    "release": tables.release_of(one) or None,
                    **one.image_ref.model_dump(),
                }
                for one in found
            ]
        )
        return
    here.out.table(
        (
            *("machine", "process", "release", "registry", "repository", "tag", "digest"),
            *("version", "labels"),
        ),
        [
            (
                one.id,
                one.group(),
                tables.release_of(one) or "",
                one.image_ref.registry,
                one.image_ref.repository,
                one.image_ref.tag,
                one.image_ref.digest[:_SHOWN],
                one.image_ref.labels.get(_VERSION),
                _labels(one),
            )
            for one in found
        ],
    )


def _labels(machine: Machine) -> str:
    labels = sorted(machine.image_ref.labels.items())
    return ", ".join(f"{name}={value}" for name, value in labels if name != _VERSION)
