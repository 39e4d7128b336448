"""`godwit machine run|create`: one machine of its own, outside deploys."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from godwit.appconfig import files
from godwit.base import errors
from godwit.cli import connect, options, session
from godwit.cli.launch import naming
from godwit.cli.machines import flags as flagged
from godwit.cli.machines import shells, wanted
from godwit.cli.rollout import overrides, progress, source, watch
from godwit.client.api import Api
from godwit.client.records import Machine

Json = dict[str, Any]

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE|DIR", help="What to run; . or ./DIR is built first.")
]
CommandArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[COMMAND]...", help="Instead of the image's own."),
]
NameOption = Annotated[str | None, typer.Option("--name", "-n", help="Name of the machine.")]
RmOption = Annotated[bool, typer.Option("--rm", help="Destroy it when it exits.")]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", help="For the build; may be repeated."),
]

_WAIT_S = 300.0
_TRIES = 3


@dataclass(frozen=True)
class RunFlags(flagged.Flags):
    """What `run` and `create` take beside what a machine is."""

    org: options.OrgOption = None
    name: NameOption = None
    region: options.RegionOption = None
    rm: RmOption = False
    dockerfile: options.DockerfileOption = None
    build_arg: BuildArgOption = None
    offline: options.OfflineOption = False
    force_host_build: options.ForceHostBuildOption = False

    def built_from(self, directory: Path) -> source.Source:
        """Return where the image of a directory comes from."""
        return source.Source(
            directory,
            dockerfile=self.dockerfile,
            args=overrides.pairs(self.build_arg, "--build-arg"),
            offline=self.offline,
            force=self.force_host_build,
        )


@dataclass(frozen=True)
class ShellFlags(RunFlags):
    """What `run` takes beside that."""

    shell: Annotated[
        bool,
        typer.Option(
            "--shell",
            help="Go into it: run --command or a shell at this terminal, then destroy it.",
        ),
    ] = False

    @property
    def opens_shell(self) -> bool:
        """Whether somebody goes into the machine at once."""
        return self.shell


@dataclass(frozen=True)
class _Wish:
    """What is asked for.

    Attributes:
        app: `None` for an app of its own.
        image: A reference, or a folder to build.
        config: Of the machine, with an image to be filled in.
        launch: Whether it is started.
        wait: Whether to wait until it is well, or at rest.
    """

    app: str | None
    image: str
    flags: RunFlags
    config: Json
    launch: bool
    wait: bool


@flagged.taking
def run(
    context: typer.Context,
    image: ImageArgument,
    command: CommandArgument = None,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    flags: ShellFlags,
    detach: options.DetachOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Create a machine from an image and start it; print its id.

    It is not part of any process group: deploys leave it alone. Where no app is named and none
    is found in a config file, it gets an app of its own.
    """
    here = session.of(context)
    if flags.shell:
        if command:
            raise errors.invalid("--shell: name what to run in it with --command")
        wish = _to_go_into(here, _app(here, app, config), image, flags)
        line = flags.command_line or shells.SHELL
        raise typer.Exit(
            connect.call(
                here, lambda api: _shell(here, api, wish, wanted.words(line, "--command"))
            )
        )
    wish = _Wish(
        app=_app(here, app, config),
        image=image,
        flags=flags,
        config=wanted.new(image, flags, cmd=command or (), rm=flags.rm, read=reader(here)),
        launch=not flags.standby_for,
        wait=not (detach or flags.rm),
    )
    _tell(here, connect.call(here, lambda api: _run(here, api, wish)), as_json=as_json)


@flagged.taking
def create(
    context: typer.Context,
    image: ImageArgument,
    command: CommandArgument = None,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    flags: RunFlags,
    as_json: options.JsonOption = False,
) -> None:
    """Create a machine from an image and leave it stopped; print its id.

    `godwit machine start` starts it.
    """
    here = session.of(context)
    wish = _Wish(
        app=_app(here, app, config),
        image=image,
        flags=flags,
        config=wanted.new(image, flags, cmd=command or (), rm=flags.rm, read=reader(here)),
        launch=False,
        wait=True,
    )
    _tell(here, connect.call(here, lambda api: _run(here, api, wish)), as_json=as_json)


def reader(here: session.Session) -> Callable[[str], str]:
    """Return what reads the file of `--machine-config`."""

    def read(name: str) -> str:
        try:
            return (here.directory / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.invalid(f"--machine-config: cannot read {name}: {error}") from error

    return read


def _tell(here: session.Session, machine: Machine, *, as_json: bool) -> None:
    if as_json or here.wants_json:
        here.out.json(machine.model_dump(mode="json"))
        return
    here.out.data(machine.id)
    if machine.private_ip:
        here.out.say(f"{machine.name or machine.id} has the address {machine.private_ip}")


def _app(here: session.Session, app: str | None, config: str | None) -> str | None:
    """Return the app that is meant; `None` when nothing says which."""
    named = app or here.environ.get("FLY_APP") or config or files.find(here.directory)
    return connect.app_name(here, app, config) if named else None


def _to_go_into(here: session.Session, app: str | None, image: str, flags: ShellFlags) -> _Wish:
    """Return the wish for a machine that waits for whoever goes into it."""
    described = replace(flags, command_line=None)
    made = wanted.new(image, described, rm=True, read=reader(here))
    idle = shells.idle()
    config = {**made, **idle, "init": {**made.get("init", {}), **idle["init"]}}
    return _Wish(app=app, image=image, flags=flags, config=config, launch=True, wait=False)


async def _shell(here: session.Session, api: Api, wish: _Wish, words: list[str]) -> int:
    """Run a command in a machine of its own; an app that is made for it goes with it."""
    app = wish.app or await _new_app(here, api, wish.flags.org)
    try:
        machine = await _run(here, api, replace(wish, app=app))
        return await shells.inside(here, api, app, machine, words, user=wish.flags.user or "root")
    finally:
        if wish.app is None:
            with contextlib.suppress(errors.Failure):
                await api.apps.delete(app)


async def _run(here: session.Session, api: Api, wish: _Wish) -> Machine:
    app = wish.app or await _new_app(here, api, wish.flags.org)
    await api.apps.get(app)
    with progress.of(here.out) as shown:
        image = await _image(here, api, app, wish, shown)
        shown.step(f"{'Run' if wish.launch else 'Create a machine of'} {image} in {app}")
        machine = await api.machines.create(
            app,
            {**wish.config, "image": image},
            name=wish.flags.name,
            region=wish.flags.region or here.environ.get("FLY_REGION"),
            skip_launch=not wish.launch,
        )
        shown.state(f"{machine.id} is {machine.state}")
        if not wish.launch:
            await api.machines.wait(app, machine.id, ["settled"])
            return await api.machines.get(app, machine.id)
        if not wish.wait:
            return machine
        watching = watch.Watch(api, app, here.clock, timeout_s=_WAIT_S, smoke=False)
        return await watching.until_well(machine, lambda text: shown.state(f"{machine.id} {text}"))


async def _new_app(here: session.Session, api: Api, org: str | None) -> str:
    """Return an app made for one machine."""
    slug = await connect.organization(here, api, org)
    for left in reversed(range(_TRIES)):
        name = naming.with_suffix("")
        try:
            await api.apps.create(name, slug)
        except errors.Failure as failure:
            if failure.code != "already_exists" or not left:
                raise
        else:
            break
    here.out.say(f"made the app {name} for it")
    return name


async def _image(
    here: session.Session, api: Api, app: str, wish: _Wish, shown: progress.Progress
) -> str:
    """Return the image's reference, built if a folder was named."""
    if not (wish.image in (".", "..") or wish.image.startswith(("./", "../", "/"))):
        return wish.image
    directory = here.directory / wish.image
    if not directory.is_dir():
        raise errors.not_found(f"there is no folder {directory}")
    path = files.find(directory)
    loaded = files.load(path) if path else overrides.without_file(directory, app, None)
    return await source.obtain(api, app, loaded, wish.flags.built_from(directory), shown)
