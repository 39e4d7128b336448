"""`godwit deploy`."""

from pathlib import Path
from typing import Annotated

import typer

from godwit.appconfig import files
from godwit.base import errors
from godwit.cli import connect, options, session, tree
from godwit.cli.rollout import deploy as rollout
from godwit.cli.rollout import overrides, progress
from godwit.cli.rollout.source import Source
from godwit.client.api import Api

app = tree.single()

DirectoryArgument = Annotated[
    str, typer.Argument(metavar="[DIR]", help="Directory of the app; the build context.")
]
IgnorefileOption = Annotated[
    str | None, typer.Option("--ignorefile", metavar="PATH", help="Instead of .dockerignore.")
]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", help="For the build; may be repeated."),
]
BuildTargetOption = Annotated[
    str | None, typer.Option("--build-target", metavar="STAGE", help="Stage to build.")
]
ImageLabelOption = Annotated[
    str | None, typer.Option("--image-label", metavar="TAG", help="Tag of the built image.")
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Build every step anew.")]
PrimaryRegionOption = Annotated[
    str | None, typer.Option("--primary-region", metavar="CODE", help="For new machines.")
]
StrategyOption = Annotated[
    str | None, typer.Option("--strategy", metavar="HOW", help="`rolling` or `immediate`.")
]
WaitTimeoutOption = Annotated[
    str | None,
    typer.Option("--wait-timeout", metavar="TIME", help="Per machine: seconds or e.g. 5m."),
]
SmokeChecksOption = Annotated[
    bool,
    typer.Option(
        "--smoke-checks/--no-smoke-checks", help="Machines without checks have to stay up for 10s."
    ),
]


@app.command(
    epilog=tree.examples(
        "godwit deploy",
        "godwit deploy ./service --build-arg VERSION=1.2",
        "godwit deploy --image nginx:1.25 --app web",
        "godwit deploy --strategy immediate --detach",
    )
)
def deploy(
    context: typer.Context,
    directory: DirectoryArgument = ".",
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    image: options.ImageOption = None,
    dockerfile: options.DockerfileOption = None,
    ignorefile: IgnorefileOption = None,
    build_arg: BuildArgOption = None,
    build_target: BuildTargetOption = None,
    image_label: ImageLabelOption = None,
    no_cache: NoCacheOption = False,
    offline: options.OfflineOption = False,
    force_host_build: options.ForceHostBuildOption = False,
    env: options.EnvOption = None,
    primary_region: PrimaryRegionOption = None,
    strategy: StrategyOption = None,
    wait_timeout: WaitTimeoutOption = None,
    smoke_checks: SmokeChecksOption = True,
    detach: options.DetachOption = False,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Build an app and replace its machines.

    Makes one release. A machine that does not come up ends it: the rest stays as it was.
    """
    here = session.of(context)
    here.directory = _directory(here, directory)
    changes = overrides.Overrides(
        app=app or here.environ.get("FLY_APP"),
        env=overrides.pairs(env, "--env"),
        primary_region=primary_region,
        size=overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory),
    )
    source = Source(
        here.directory,
        image=image,
        dockerfile=dockerfile,
        ignorefile=ignorefile,
        args=overrides.pairs(build_arg, "--build-arg"),
        target=build_target,
        label=image_label,
        no_cache=no_cache,
        offline=offline,
        force=force_host_build,
    )
    limit = overrides.seconds(wait_timeout, "--wait-timeout") if wait_timeout else None
    request = rollout.Request(source, strategy, limit, smoke=smoke_checks, detach=detach)
    _run(here, config, changes, request, as_json=as_json or here.wants_json)


def _run(
    here: session.Session,
    config: str | None,
    changes: overrides.Overrides,
    request: rollout.Request,
    *,
    as_json: bool,
) -> None:
    async def work(api: Api) -> None:
        loaded = await _loaded(here, api, config, changes, request.source.image)
        name = connect.app_name(here, loaded.checked().app)
        await perform(here, api, loaded, name, request, as_json=as_json)

    connect.call(here, work)


def _directory(here: session.Session, named: str) -> Path:
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
    releases = await api.releases.list(changes.app, limit=1)
    definition = releases[0].config if releases else None
    if definition is None and image is None:
        raise errors.not_found(
            f"there is no fly.toml in {here.directory}, and {changes.app} was never deployed",
            hint="`godwit launch` makes an app of this directory; or pass --image",
        )
    return overrides.apply(
        overrides.without_file(here.directory, changes.app, definition), changes
    )


async def perform(
    here: session.Session,
    api: Api,
    loaded: files.Loaded,
    name: str,
    request: rollout.Request,
    *,
    as_json: bool = False,
) -> None:
    """Deploy, and tell where the app is; `launch` ends here too."""
    rollout.told_beforehand(here, loaded)
    one = rollout.Deploy(here, api, loaded, name, request)
    done = await one.run(progress.of(here.out))
    address = here.settings.app_url(name) if done.public else None
    if as_json:
        here.out.json(
            {
                "app": name,
                "image": done.image,
                "release": done.release.version,
                "release_id": done.release.id,
                "machines": list(done.machines),
                "url": address,
            }
        )
        return
    here.out.say(f"Release v{done.release.version} of {name} is deployed")
    if address:
        here.out.data(address)
        return
    here.out.hint(f"{name} has no services: other apps of its network reach it as {name}.internal")
