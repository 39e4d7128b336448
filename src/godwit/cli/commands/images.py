"""`godwit images`: base images of this host."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from godwit.cli import session, tree
from godwit.cli.commands import up
from godwit.images import bases

app = tree.group("Base images of this host.")


@app.callback()
def images() -> None:
    """Base images of this host."""


@app.command(epilog=tree.examples("godwit images bootstrap"))
def bootstrap(
    context: typer.Context,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
) -> None:
    """Build small base images from Debian packages.

    They stand in for `debian:bookworm-slim`, `python:3.11-slim` and `nginx` when those cannot be
    pulled, or when a build is told to stay offline; the build says so.
    """
    found = up.resolve(context, settings_file)
    asyncio.run(bases.ensure(found.paths.cache, told=session.of(context).out.say))
