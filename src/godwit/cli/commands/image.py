"""`godwit image show|update`."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, definition, session, tables, tree
from godwit.cli.commands import deploy
from godwit.cli.options import AppOption, ConfigOption, DetachOption, JsonOption, YesOption
from godwit.cli.rollout import overrides
from godwit.cli.rollout.deploy import Request
from godwit.cli.rollout.source import Source
from godwit.client.api import Api
from godwit.client.records import Machine
from godwit.wire.deploys import Options

app = tree.group("Show the images of an app's machines, and deploy newer ones.")

_VERSION = "fly.version"
_SHOWN = len("sha256:") + 12


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
    found = connect.machines_of(here, connect.app_name(here, app, config))
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


@app.command(
    epilog=tree.examples(
        "godwit image update --yes",
        "godwit image update --image nginx:1.27",
        "godwit image update --image nginx:1.27 --skip-health-checks --yes --json",
    )
)
def update(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", "-i", metavar="REF", help="Else what the last release's tag is now."
        ),
    ] = None,
    skip_health_checks: Annotated[
        bool,
        typer.Option("--skip-health-checks", help="Replace all at once, and do not wait."),
    ] = False,
    detach: DetachOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy the last release again with a newer image.

    It becomes a release of its own, with the same config; `godwit rollback` takes it back.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    options = Options(strategy="immediate" if skip_health_checks else None)

    async def work(api: Api) -> None:
        await api.apps.get(name)
        release = await definition.released(api, name)
        chosen = image or _as_it_is_now(name, release.image)
        here.confirm(f"Deploy {chosen} to {name}, which runs {release.image}?", yes=yes)
        loaded = overrides.without_file(here.directory, name, release.config)
        request = Request(Source(here.directory, image=chosen), options, detach=detach)
        json = as_json or here.wants_json
        await deploy.perform(here, api, loaded, name, request, as_json=json)

    connect.call(here, work)


def _as_it_is_now(app: str, image: str) -> str:
    """Return a release's image by its tag, which may be another image by now.

    Raises:
        Failure: It has none.
    """
    named = image.partition("@")[0]
    if ":" not in named.rpartition("/")[2]:
        raise errors.invalid(
            f"{app} runs {image}, which has no tag that could have moved on",
            hint="name an image with --image, or build one with `godwit deploy`",
        )
    return named
