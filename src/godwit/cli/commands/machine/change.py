"""`godwit machine start|stop|suspend|restart|signal|kill|destroy|cordon|uncordon`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, restarting, session, waiting
from godwit.cli.options import AppOption, ConfigOption, YesOption
from godwit.cli.rollout import overrides
from godwit.cli.taking import taking
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


@dataclass(frozen=True)
class Which:
    """The machines that a command is about."""

    machines: MachinesArgument
    app: AppOption = None
    config: ConfigOption = None

    def each(self, here: session.Session, act: Act, done: str) -> None:
        """Do something to each of them, telling of each."""
        app = connect.app_name(here, self.app, self.config)

        async def work(api: Api) -> None:
            for machine in await connect.machines(api, app, self.machines):
                await act(api, app, machine)
                here.out.say(f"{machine.id} {done}")

        connect.call(here, work)


@taking
def start(
    context: typer.Context,
    *,
    which: Which,
    wait: WaitOption = False,
) -> None:
    """Start machines that rest; those that are suspended go on where they were."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.start(name, machine.id)
        if wait:
            await waiting.until(here, api, name, machine, ["started"], _WAIT_S)

    which.each(here, act, "is started" if wait else "is starting")


@taking
def stop(
    context: typer.Context,
    *,
    which: Which,
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
            await waiting.until(here, api, name, machine, ["stopped", "destroyed"], _WAIT_S)

    which.each(here, act, "is stopped" if wait else "is stopping")


@taking
def suspend(
    context: typer.Context,
    *,
    which: Which,
    wait: WaitOption = False,
) -> None:
    """Suspend machines with their memory; `start` lets them go on."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.suspend(name, machine.id)
        if wait:
            await waiting.until(here, api, name, machine, ["suspended", "stopped"], _WAIT_S)

    which.each(here, act, "is suspended" if wait else "is suspending")


@taking
def signal(
    context: typer.Context,
    *,
    which: Which,
    name: Annotated[
        str, typer.Option("--signal", "-s", metavar="SIGNAL", help="E.g. SIGHUP.")
    ] = "SIGTERM",
) -> None:
    """Send a signal to the main process of machines."""
    here = session.of(context)

    async def act(api: Api, app_name: str, machine: Machine) -> None:
        await api.machines.signal(app_name, machine.id, name)

    which.each(here, act, f"has been sent {name}")


@taking
def kill(
    context: typer.Context,
    *,
    which: Which,
) -> None:
    """Kill the main process of machines; their restart policy says what follows."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.signal(name, machine.id, "SIGKILL")

    which.each(here, act, "has been killed")


@taking
def restart(
    context: typer.Context,
    *,
    which: Which,
    force: Annotated[bool, typer.Option("--force", help="Kill instead of stopping.")] = False,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="TIME", help="Until it is killed: seconds or e.g. 10s."),
    ] = None,
    skip_health_checks: Annotated[
        bool, typer.Option("--skip-health-checks", help="Do not wait for its checks.")
    ] = False,
) -> None:
    """Stop machines and start them again, one after another."""
    here = session.of(context)
    grace = f"{overrides.seconds(time, '--time'):g}s" if time else None
    how = restarting.How(force=force, grace=grace, well=not skip_health_checks)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await restarting.restart(here, api, name, machine, how)

    which.each(here, act, "is started again")


def destroy(
    context: typer.Context,
    machines: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MACHINE]...", help="Machines, by id or name."),
    ] = None,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    image: Annotated[
        str | None,
        typer.Option("--image", "-i", metavar="REF", help="All machines of this image."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also when it is running.")] = False,
    yes: YesOption = False,
) -> None:
    """Destroy machines with everything on their disks."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    if bool(machines) == bool(image):
        raise errors.invalid("name machines, or all of an image with --image")

    async def work(api: Api) -> None:
        found = (
            await connect.machines(api, name, machines)
            if machines
            else _of_image(image or "", await api.machines.list(name))
        )
        here.confirm(f"Destroy {', '.join(machines or _ids(found))} of {name}?", yes=yes)
        for machine in found:
            await api.machines.destroy(name, machine.id, force=force)
            here.out.say(f"{machine.id} is destroyed")

    connect.call(here, work)


def _ids(found: list[Machine]) -> list[str]:
    return [one.id for one in found]


def _of_image(image: str, machines: list[Machine]) -> list[Machine]:
    """Return the machines of an image, named as in their config, by tag or by digest.

    Raises:
        Failure: `not_found`.
    """
    found = [
        one
        for one in machines
        if image in (one.config.get("image"), one.image_ref.short(), one.image_ref.digest)
    ]
    if not found:
        raise errors.not_found(
            f"no machine is of the image {image}", hint="list them with `godwit machine list`"
        )
    return found


@taking
def cordon(
    context: typer.Context,
    *,
    which: Which,
) -> None:
    """Take machines out of the edge's routing; they go on running."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.cordon(name, machine.id)

    which.each(here, act, "takes no traffic")


@taking
def uncordon(
    context: typer.Context,
    *,
    which: Which,
) -> None:
    """Put machines back into the edge's routing."""
    here = session.of(context)

    async def act(api: Api, name: str, machine: Machine) -> None:
        await api.machines.uncordon(name, machine.id)

    which.each(here, act, "takes traffic")
