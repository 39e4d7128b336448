"""`godwit machine start|stop|restart|destroy|cordon|uncordon`."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from godwit.cli import connect, session
from godwit.cli.commands.machine import use
from godwit.cli.options import AppOption, ConfigOption, YesOption
from godwit.cli.rollout import overrides
from godwit.client.api import Api
from godwit.client.records import Machine

MachinesArgument = Annotated[
    list[str],
    typer.Argument(metavar="MACHINE...", help="Machines, by id or name.", show_default=False),
]
WaitOption = Annotated[
    bool, typer.Option("--wait", "-w", help="Return only once it has happened.")
]
_WAIT_S = 300.0

Act = Callable[[Api, str, Machine], Awaitable[None]]


def _each(here: session.Session, app: str, named: list[str], act: Act, done: str) -> None:
    """Do something to each of several machines, telling of each."""

    async def work(api: Api) -> None:
        for one in named:
            machine = await connect.machine(api, app, one)
            await act(api, app, machine)
            here.out.say(f"{machine.id} {done}")

    connect.call(here, work)


def start(
    context: typer.Context,
    machines: MachinesArgument,
    app: AppOption = None,
    config: ConfigOption = None,
    wait: WaitOption = False,
) -> None:
    """Start machines that rest."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.start(name, machine.id)
        if wait:
            await use.until(here, api, name, machine, ["started"], _WAIT_S)

    name = connect.app_name(here, app, config)
    _each(here, name, machines, act, "is started" if wait else "is starting")


def stop(
    context: typer.Context,
    machines: MachinesArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    signal: Annotated[
        str | None, typer.Option("--signal", "-s", metavar="SIGNAL", help="E.g. SIGTERM.")
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="Until it is killed: seconds or e.g. 10s."),
    ] = None,
    wait: WaitOption = False,
) -> None:
    """Stop machines."""
    here = session.of(context)
    grace = f"{overrides.seconds(timeout, '--timeout'):g}s" if timeout else None

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.stop(name, machine.id, signal=signal, grace=grace)
        if wait:
            await use.until(here, api, name, machine, ["stopped", "destroyed"], _WAIT_S)

    name = connect.app_name(here, app, config)
    _each(here, name, machines, act, "is stopped" if wait else "is stopping")


def restart(
    context: typer.Context,
    machines: MachinesArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Kill instead of stopping.")] = False,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="TIME", help="Until it is killed: seconds or e.g. 10s."),
    ] = None,
) -> None:
    """Stop machines and start them again."""
    here = session.of(context)
    grace = f"{overrides.seconds(time, '--time'):g}s" if time else None

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.restart(name, machine.id, force=force, grace=grace)

    name = connect.app_name(here, app, config)
    _each(here, name, machines, act, "is restarting")


def destroy(
    context: typer.Context,
    machines: MachinesArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also when it is running.")] = False,
    yes: YesOption = False,
) -> None:
    """Destroy machines with everything on their disks."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    here.confirm(f"Destroy {', '.join(machines)} of {name}?", yes=yes)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.destroy(name, machine.id, force=force)

    _each(here, name, machines, act, "is destroyed")


def cordon(
    context: typer.Context,
    machines: MachinesArgument,
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Take machines out of the edge's routing; they go on running."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.cordon(name, machine.id)

    _each(here, connect.app_name(here, app, config), machines, act, "takes no traffic")


def uncordon(
    context: typer.Context,
    machines: MachinesArgument,
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Put machines back into the edge's routing."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.uncordon(name, machine.id)

    _each(here, connect.app_name(here, app, config), machines, act, "takes traffic")
