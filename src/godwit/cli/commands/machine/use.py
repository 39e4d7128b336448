"""`godwit machine exec|wait`."""

import shlex
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session, waiting
from godwit.cli.options import (
    AppOption,
    ConfigOption,
    ContainerOption,
    JsonOption,
    MachineArgument,
)
from godwit.cli.rollout import overrides
from godwit.client.api import Api
from godwit.client.records import Ran

STATES = ("started", "stopped", "suspended", "destroyed", "failed", "settled")
_SIGNALLED = 128


def exec_(
    context: typer.Context,
    machine: MachineArgument,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help="The command; one argument alone is split into words."
        ),
    ],
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Seconds, or e.g. 1m.")
    ] = "60s",
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Give it this program's standard input.")
    ] = False,
    container: ContainerOption = None,
    beside: Annotated[
        bool, typer.Option("--machine", help="Beside its containers, in the machine itself.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run one command in a machine; exits with its exit code."""
    here = session.of(context)
    if container and beside:
        raise errors.invalid("--container and --machine: one of them")
    name = connect.app_name(here, app, config)
    words = shlex.split(command[0]) if len(command) == 1 else command
    limit = max(1, round(overrides.seconds(timeout, "--timeout")))
    text = here.stdin.read() if stdin else ""

    async def work(api: Api) -> Ran:
        found = await connect.machine(api, name, machine)
        return await api.machines.exec(
            name,
            found.id,
            words,
            stdin=text,
            timeout_s=limit,
            container=container or "",
            machine=beside,
        )

    ran = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(ran.model_dump(mode="json"))
    else:
        here.out.raw(ran.stdout)
        here.out.stderr.write(ran.stderr)
    raise typer.Exit(ran.exit_code or (_SIGNALLED + ran.exit_signal if ran.exit_signal else 0))


def wait(
    context: typer.Context,
    machine: MachineArgument,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="What to wait for; may be repeated."),
    ] = None,
    wait_timeout: Annotated[
        str, typer.Option("--wait-timeout", "-w", metavar="TIME", help="Seconds, or e.g. 5m.")
    ] = "5m",
) -> None:
    """Wait until a machine is in a state (`settled`: in any that lasts)."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    states = state or ["settled"]
    unknown = [one for one in states if one not in STATES]
    if unknown:
        raise errors.invalid(
            f'--state: there is no state "{unknown[0]}" to wait for',
            hint=f"states are {', '.join(STATES)}",
        )
    limit = overrides.seconds(wait_timeout, "--wait-timeout")

    async def work(api: Api) -> str:
        found = await connect.machine(api, name, machine)
        return await waiting.until(here, api, name, found, states, limit)

    here.out.data(connect.call(here, work))
