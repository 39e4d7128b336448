"""`godwit upgrade`: this release in the place of the one that runs, machines untouched."""

from pathlib import Path
from typing import Annotated

import typer

from godwit.cli import session, tree
from godwit.cli.commands import up
from godwit.host import up as host_up

app = tree.single()


@app.command(epilog=tree.examples("godwit upgrade"))
def upgrade(
    context: typer.Context,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
) -> None:
    """Replace the running release of Godwit on this machine by this one.

    Machines run on and are taken over by the new release. Apps cannot be reached for the few
    seconds in which the edge is replaced.
    """
    found = up.resolve(context, settings_file)
    host_up.upgrade(found, told=session.of(context).out.say)
