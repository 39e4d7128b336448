"""`godwit open`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, tree
from godwit.cli.options import AppOption, ConfigOption

app = tree.single()


@app.command(epilog=tree.examples("godwit open", "godwit open /healthz --app hello"))
def open_(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Path within the app.")] = "/",
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Open an app in the browser.

    Prints its address, too: all it does where nobody watches.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    connect.call(here, lambda api: api.apps.get(name))
    address = here.settings.app_url(name) + path.lstrip("/")
    here.out.data(address)
    if here.out.lively and not here.browse(address):
        here.out.hint("no browser could be opened: go to the address above")
