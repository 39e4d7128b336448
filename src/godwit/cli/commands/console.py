"""`godwit console`."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from godwit.appconfig import groups, machine
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli import connect, options, ports, session, terminal, tree
from godwit.cli import options_deploy as flags
from godwit.cli.machines import flags as flagged
from godwit.cli.machines import shells
from godwit.cli.machines.wanted import words
from godwit.cli.rollout import overrides
from godwit.cli.taking import taking
from godwit.client.api import Api
from godwit.client.records import Release

Json = dict[str, Any]

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


PortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--port",
        "-p",
        metavar="PORT",
        help="EXTERNAL[:INTERNAL][/PROTOCOL[:HANDLER...]], which the new machine answers to.",
    ),
]
EntrypointOption = Annotated[
    str | None,
    typer.Option("--entrypoint", metavar="LINE", help="Of the new machine, not the image's."),
]


@app.command(
    epilog=tree.examples(
        "godwit console",
        "godwit console --command 'python3 manage.py shell'",
        "godwit console --machine 148ed193b95948",
        "godwit console --file-local /tmp/fix.sql=./fix.sql --port 8081:8080",
    )
)
@taking
def console(
    context: typer.Context,
    *,
    app: options.AppOption = None,
    config: options.ConfigOption = None,
    machine: MachineOption = None,
    select: SelectOption = False,
    container: options.ContainerOption = None,
    command: CommandOption = None,
    image: options.ImageOption = None,
    user: UserOption = "root",
    env: options.EnvOption = None,
    region: options.RegionOption = None,
    port: PortOption = None,
    entrypoint: EntrypointOption = None,
    files: flags.FileFlags,
    volume: Annotated[list[str] | None, flagged.later("--volume")] = None,
    vm_size: options.VmSizeOption = None,
    vm_cpus: options.VmCpusOption = None,
    vm_cpu_kind: options.VmCpuKindOption = None,
    vm_memory: options.VmMemoryOption = None,
) -> None:
    """Open a console in a new machine of an app's last release; it is destroyed at the end."""
    here = session.of(context)
    if volume:
        raise errors.invalid("--volume: this platform has no volumes yet")
    wish = _Wish(
        app=connect.app_name(here, app, config),
        command=command,
        image=image,
        user=user,
        container=container or "",
        changes=overrides.Overrides(
            env=overrides.pairs(env, "--env"),
            primary_region=region or here.environ.get("FLY_REGION"),
            size=overrides.Size(vm_size, vm_cpus, vm_cpu_kind, vm_memory),
        ),
        files=overrides.with_content(files.sections(here.directory)),
        services=ports.services(port),
        entrypoint=entrypoint,
    )
    _check(wish, runs=machine is not None or select)

    async def work(api: Api) -> int:
        named = machine
        if select and machine is None:
            named = await connect.choose_machine(
                here,
                api,
                wish.app,
                running=True,
                hint="without --select the console opens in a new one",
            )
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
    container: str
    changes: overrides.Overrides
    files: list[Json] = field(default_factory=list)
    services: list[Json] = field(default_factory=list)
    entrypoint: str | None = None


def _check(wish: _Wish, *, runs: bool) -> None:
    """Refuse what a machine that runs cannot be given any more, and what a new one does not have.

    Raises:
        Failure: Such a flag was given.
    """
    if not runs:
        if wish.container:
            raise errors.invalid(
                "--container: a new machine has none",
                hint="name a machine that runs with --machine, or choose one with --select",
            )
        return
    for given, flag in (
        (wish.services, "--port"),
        (wish.entrypoint, "--entrypoint"),
        (wish.files, "--file-…"),
        (wish.changes.size.given(), "--vm-…"),
        (wish.changes.env, "--env"),
        (wish.image, "--image"),
    ):
        if given:
            raise errors.invalid(f"{flag}: it is for a new machine, and this one runs already")


async def _in_running(here: session.Session, api: Api, wish: _Wish, named: str) -> int:
    found = await connect.machine(api, wish.app, named)
    release = await _last_release(api, wish.app)
    words = _words(wish, _config(here, wish, release))
    return await terminal.open_and_attach(
        here, api, wish.app, found.id, words, user=wish.user, container=wish.container
    )


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
        wish.app, _machine_config(wish, config, image), region=config.primary_region
    )
    return await shells.inside(here, api, wish.app, made, words, user=wish.user)


def _machine_config(wish: _Wish, config: Config, image: str) -> Json:
    """Return a machine that waits for its console, and ends by itself if that never closes it."""
    size = machine.guest(config, groups.default(config))
    made: Json = {
        **shells.idle(),
        "image": image,
        "env": machine.environment(config, GROUP),
        "dns": {"skip_registration": True},
        "metadata": {"fly_platform_version": machine.PLATFORM_VERSION, "fly_process_group": GROUP},
    }
    if size is not None:
        made["guest"] = size
    if wish.entrypoint:
        waits = made["init"]["exec"]
        made["init"] = {"entrypoint": words(wish.entrypoint, "--entrypoint"), "cmd": waits}
    if wish.services:
        made["services"] = wish.services
    if wish.files:
        made["files"] = wish.files
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
    return words(wish.command or config.console_command or shells.SHELL, "--command")
