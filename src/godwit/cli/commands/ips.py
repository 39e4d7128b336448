"""`godwit ips private`."""

import typer

from godwit.cli import connect, session, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption

app = tree.group("Show the addresses of an app.")


@app.callback()
def ips() -> None:
    """Show the addresses of an app."""


@app.command(epilog=tree.examples("godwit ips private", "godwit ips private --app hello --json"))
def private(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the addresses of an app's machines in its private network."""
    here = session.of(context)
    found = connect.machines_of(here, connect.app_name(here, app, config))
    if as_json or here.wants_json:
        here.out.json(
            [
                {
                    "machine": one.id,
                    "group": one.group(),
                    "region": one.region,
                    "ip": one.private_ip,
                }
                for one in found
            ]
        )
        return
    here.out.table(
        ("machine", "process", "region", "ip"),
        [(one.id, one.group(), one.region, one.private_ip) for one in found],
    )
