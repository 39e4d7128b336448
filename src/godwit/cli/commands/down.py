"""`godwit down`: this machine is no host any more; machines come back at the next up."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from godwit.cli import session, tree
from godwit.cli.commands import up
from godwit.host import up as host_up

app = tree.single()


@app.command(epilog=tree.examples("godwit down"))
def down(
    context: typer.Context,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
) -> None:
    """Stop Godwit on this machine and leave nothing running.

    Machines that run are stopped and remembered: they come back at the next `godwit up`.
    """
    found = up.resolve(context, settings_file)
    asyncio.run(host_up.down(found, told=session.of(context).out.say))
