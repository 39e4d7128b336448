"""`godwit up`: this machine becomes a host."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from godwit.base import settings
from godwit.cli import session, tree
from godwit.host import up as host_up

app = tree.single()


def resolve(
    context: typer.Context, settings_file: Path | None, **flags: object
) -> settings.Settings:
    """Return this host's settings from the file, the environment and the flags."""
    environ = session.of(context).environ
    named = environ.get("GODWIT_SETTINGS")
    standard = Path("/etc/godwit/godwit.toml")
    path = settings_file or (Path(named) if named else standard if standard.exists() else None)
    return settings.load(path, environ, {k.replace("__", "."): v for k, v in flags.items()})


@app.command(
    epilog=tree.examples("godwit up -d", "godwit up --edge 0.0.0.0:80 --data /srv/godwit")
)
def up(
    context: typer.Context,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when everything is ready.")
    ] = False,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="What must survive lies here.")
    ] = None,
    edge: Annotated[
        str | None, typer.Option("--edge", metavar="ADDRESS", help="Where apps answer, host:port.")
    ] = None,
    api: Annotated[
        str | None, typer.Option("--api", metavar="ADDRESS", help="Where the API answers.")
    ] = None,
    apps_domain: Annotated[
        str | None, typer.Option("--apps-domain", metavar="NAME", help="Apps are <app>.NAME.")
    ] = None,
) -> None:
    """Start Godwit on this machine."""
    out = session.of(context).out
    found = resolve(
        context,
        settings_file,
        paths__data=None if data is None else str(data.absolute()),
        listen__edge=edge,
        listen__api=api,
        apps_domain=apps_domain,
    )
    if detach:
        host_up.start_detached(found, told=out.say)
    else:
        asyncio.run(host_up.up(found, told=out.say))
