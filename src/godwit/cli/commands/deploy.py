"""`godwit deploy`."""

from pathlib import Path
from typing import Annotated

import typer

from godwit.appconfig import files
from godwit.base import errors
from godwit.cli import connect, definition, options, session, shown, tree
from godwit.cli import options_deploy as flags
from godwit.cli.rollout import compose, follow, names, overrides, progress
from godwit.cli.rollout import deploy as rollout
from godwit.cli.rollout import source as sources
from godwit.cli.rollout.source import Source
from godwit.cli.taking import taking
from godwit.client.api import Api
from godwit.client.records import Deploy

app = tree.single()

PlanOption = Annotated[
    bool, typer.Option("--plan", help="Show what would be done to machines, and stop.")
]
CancelOption = Annotated[
    bool, typer.Option("--cancel", help="Have the deploy that runs go back; deploy nothing.")
]
FollowOption = Annotated[
    bool, typer.Option("--follow", help="Look on at the deploy that runs; deploy nothing.")
]


@app.command(
    epilog=tree.examples(
        "godwit deploy",
        "godwit deploy ./service --build-arg VERSION=1.2",
        "godwit deploy --image nginx:1.25 --app web",
        "godwit deploy --strategy bluegreen --wait-timeout 2m",
        "godwit deploy --plan",
        "godwit deploy --detach",
        "godwit deploy --follow",
        "godwit deploy --cancel",
    )
)
@taking
def deploy(
    context: typer.Context,
    directory: flags.DirectoryArgument = ".",
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    image: options.ImageOption = None,
    dockerfile: options.DockerfileOption = None,
    build: flags.BuildFlags,
    rollout_flags: flags.RolloutFlags,
    scope: flags.ScopeFlags,
    changed: flags.ConfigFlags,
    provision: flags.ProvisionFlags,
    build_only: flags.BuildOnlyOption = False,
    plan: PlanOption = False,
    detach: options.DetachOption = False,
    wait_lock: flags.WaitLockOption = None,
    follow_running: FollowOption = False,
    cancel: CancelOption = False,
    yes: options.YesOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Build an app and replace its machines by those of a new release.

    The platform carries the deploy through: it goes on when this program ends.
    """
    del yes  # nothing is asked
    here = session.of(context)
    as_json = as_json or here.wants_json
    modes = {"--plan": plan, "--cancel": cancel, "--follow": follow_running}
    _one_of({**modes, "--build-only": build_only})
    here.directory = directory_of(here, directory)
    if cancel or follow_running:
        name = connect.app_name(here, app, config)
        _at_the_running_one(here, name, cancel=cancel, as_json=as_json)
        return
    changes = changed.changes(here.directory, app or here.environ.get("FLY_APP"))
    source = build.source(here.directory, here.environ, image=image, dockerfile=dockerfile)
    wanted = scope.added(rollout_flags.wanted())
    lock = flags.seconds(wait_lock, "--wait-lock")
    request = rollout.Request(
        source, wanted, detach, lock, rollout_flags.dns_checks, provision.flycast
    )

    async def work(api: Api) -> None:
        loaded = await _loaded(here, api, config, changes, image)
        name = connect.app_name(here, loaded.checked().app)
        if build_only:
            await build_image(here, api, loaded, name, source)
            return
        provision.told(here, loaded.checked())
        if plan:
            await _show_plan(here, api, loaded, name, request, as_json=as_json)
        else:
            await perform(here, api, loaded, name, request, as_json=as_json)

    connect.call(here, work)


def _one_of(modes: dict[str, bool]) -> None:
    given = [name for name, wanted in modes.items() if wanted]
    if len(given) > 1:
        raise errors.invalid(f"{' and '.join(given)}: one of them")


def directory_of(here: session.Session, named: str) -> Path:
    """Return a directory that is there.

    Raises:
        Failure: `not_found`.
    """
    directory = here.directory / named
    if not directory.is_dir():
        raise errors.not_found(f"there is no directory {directory}")
    return directory


async def _loaded(
    here: session.Session,
    api: Api,
    config: str | None,
    changes: overrides.Overrides,
    image: str | None,
) -> files.Loaded:
    """Return the config: the file's, or for an app without a file its last release's."""
    path = files.find(here.directory, config)
    if path is not None:
        return overrides.apply(files.load(path), changes)
    if not changes.app:
        raise errors.not_found(
            f"there is no fly.toml in {here.directory}",
            hint="`godwit launch` makes an app of this directory; or pass --app and --image",
        )
    release = await definition.latest(api, changes.app)
    if release is None and image is None:
        raise errors.not_found(
            f"there is no fly.toml in {here.directory}, and {changes.app} was never deployed",
            hint="`godwit launch` makes an app of this directory; or pass --image",
        )
    known = release.config if release else None
    return overrides.apply(overrides.without_file(here.directory, changes.app, known), changes)


async def build_image(
    here: session.Session, api: Api, loaded: files.Loaded, name: str, source: Source
) -> None:
    """Build the image of an app, and print its name; `launch` may end here."""
    await api.apps.get(name)
    telling = progress.of(here.out)
    with telling:
        loaded, source = compose.applied(loaded, source, here.environ, telling)
        reference = await sources.obtain(api, name, loaded, source, telling)
    here.out.data(reference)


async def _show_plan(
    here: session.Session,
    api: Api,
    loaded: files.Loaded,
    name: str,
    request: rollout.Request,
    *,
    as_json: bool,
) -> None:
    rollout.told_beforehand(here, loaded)
    telling = progress.of(here.out)
    with telling:
        found = await rollout.plan(here, api, loaded, name, request, telling)
    if as_json:
        here.out.json(found.model_dump(mode="json"))
        return
    for sentence in found.sentences or ["Nothing is to be done"]:
        here.out.data(sentence)


def _at_the_running_one(here: session.Session, name: str, *, cancel: bool, as_json: bool) -> None:
    """Follow the deploy that runs to its end, having it cancelled first if that is wanted."""

    async def work(api: Api) -> None:
        found = await follow.running(api, name)
        if found is None:
            raise errors.not_found(
                f"no deploy of {name} is under way", hint=f"see `godwit releases --app {name}`"
            )
        if cancel:
            await api.deploys.cancel(name, found.id)
            here.out.say(f"Release v{found.release.version} of {name} is being cancelled")
        telling = progress.of(here.out)
        with telling:
            if cancel:
                ended = await follow.to_its_end(here, api, found, telling)
            else:
                ended = await rollout.followed(here, api, found, telling)
        address = here.settings.app_url(name)
        await shown.ended(here, api, ended, address=address, as_json=as_json)

    connect.call(here, work)


async def perform(
    here: session.Session,
    api: Api,
    loaded: files.Loaded,
    name: str,
    request: rollout.Request,
    *,
    as_json: bool = False,
) -> Deploy:
    """Deploy, and tell where the app is; `launch` ends here too."""
    rollout.told_beforehand(here, loaded)
    telling = progress.of(here.out)
    with telling:
        begun = await rollout.begin(here, api, loaded, name, request, telling)
        if begun.plan is not None and not begun.plan.groups:
            telling.note(". ".join(["warning: no machine is touched", *begun.plan.sentences]))
        if not request.detach:
            begun = await rollout.followed(here, api, begun, telling)
    config = loaded.checked()
    looks = request.dns_checks and not request.detach and not request.flycast
    if looks and (config.http_service or config.services):
        await names.warn(here, name)
    address = shown.address(here, name, config, flycast=request.flycast)
    await shown.ended(here, api, begun, address=address, as_json=as_json)
    return begun
