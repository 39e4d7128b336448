"""`godwit console`."""

import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from godwit.appconfig import groups, machine
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli import connect, options, session, terminal, tree
from godwit.cli.machines import shells
from godwit.cli.rollout import overrides
from godwit.client.api import Api
from godwit.client.records import Release

app = tree.single()

GROUP = "fly_app_console"

MachineOption = Annotated[
    str | None,
    typer.Option("--machine", metavar="ID", help="A machine that runs, instead of a new one."),
]
CommandOption = Annotated[
    str | None,
    typer.Option("--command", "-C", metavar="LINE", help="Instead of console_command."),
]
SelectOption = Annotated[
    bool, typer.Option("--select", "-s", help="Choose a machine that runs, instead of a new one.")
]
UserOption = Annotated[str, typer.Option("--user", "-u", metavar="NAME", help="Instead of root.")]


@app.command(
    epilog=tree.examples(
        "godwit console",
        "godwit console --command 'python3 manage.py shell'",
        "godwit console --machine 148ed193b95948",
    )
)
def console(
    context: typer.Context,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    machine: MachineOption = None,
    select: SelectOption = False,
    command: CommandOption = None,
    image: options.ImageOption = None,
    user: UserOption = "root",
    env: options.EnvOption = None,
    region: options.RegionOption = None,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
) -> None:
    """Open a console in a new machine of an app's last release; it is destroyed at the end."""
    here = session.of(context)
    wish = _Wish(
        app=connect.app_name(here, app, config),
        command=command,
        image=image,
        user=user,
        changes=overrides.Overrides(
            env=overrides.pairs(env, "--env"),
            primary_region=region or here.environ.get("FLY_REGION"),
            size=overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory),
        ),
    )

    async def work(api: Api) -> int:
        named = await _chosen(here, api, wish.app) if select and machine is None else machine
        if named is not None:
            return await _in_running(here, api, wish, named)
        return await _in_new(here, api, wish)

    raise typer.Exit(connect.call(here, work))


@dataclass(frozen=True)
class _Wish:
    app: str
    command: str | None
    image: str | None
    user: str
    changes: overrides.Overrides


async def _chosen(here: session.Session, api: Api, app_name: str) -> str:
    """Return the id of a machine that runs, asking when there are several.

    Raises:
        Failure: None runs, or nobody is there to choose.
    """
    running = [one.id for one in await api.machines.list(app_name) if one.state == "started"]
    if not running:
        raise errors.Failure(
            "failed_precondition",
            f"no machine of {app_name} runs",
            hint="without --select the console opens in a new one",
        )
    return here.choose("Which machine?", sorted(running), flag="--machine")


async def _in_running(here: session.Session, api: Api, wish: _Wish, named: str) -> int:
    found = await connect.machine(api, wish.app, named)
    release = await _last_release(api, wish.app)
    words = _words(wish, _config(here, wish, release))
    return await terminal.open_and_attach(here, api, wish.app, found.id, words, user=wish.user)


async def _in_new(here: session.Session, api: Api, wish: _Wish) -> int:
    release = await _last_release(api, wish.app)
    if release is None and wish.image is None:
        raise errors.Failure(
            "failed_precondition",
            f"{wish.app} was never deployed, so there is nothing to open a console in",
            hint="deploy it first, or name an image with --image",
        )
    config = _config(here, wish, release)
    image = wish.image or (release.image if release is not None else "")
    words = _words(wish, config)
    made = await api.machines.create(
        wish.app, _machine_config(config, image), region=config.primary_region
    )
    return await shells.inside(here, api, wish.app, made, words, user=wish.user)


def _machine_config(config: Config, image: str) -> dict[str, Any]:
    """Return a machine that waits for its console, and ends by itself if that never closes it."""
    size = machine.guest(config, groups.default(config))
    made: dict[str, Any] = {
        **shells.idle(),
        "image": image,
        "env": machine.environment(config, GROUP),
        "dns": {"skip_registration": True},
        "metadata": {"fly_platform_version": machine.PLATFORM_VERSION, "fly_process_group": GROUP},
    }
    if size is not None:
        made["guest"] = size
    return made


async def _last_release(api: Api, app_name: str) -> Release | None:
    """Return the newest release that was completed, else the newest."""
    found = await api.releases.list(app_name, limit=25)
    complete = [one for one in found if one.status == "complete"]
    return next(iter([*complete, *found]), None)


def _config(here: session.Session, wish: _Wish, release: Release | None) -> Config:
    definition = release.config if release is not None else None
    loaded = overrides.without_file(here.directory, wish.app, definition)
    return overrides.apply(loaded, wish.changes).checked()


def _words(wish: _Wish, config: Config) -> list[str]:
    line = wish.command or config.console_command or shells.SHELL
    try:
        return shlex.split(line)
    except ValueError as error:
        raise errors.invalid(f"--command: {error}") from error
