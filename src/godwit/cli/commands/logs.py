"""`godwit logs`."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption, RegionOption
from godwit.client.api import Api
from godwit.client.records import LogLine

app = tree.single()

_POLL_S = 1.0


@app.command(
    epilog=tree.examples(
        "godwit logs",
        "godwit logs --no-tail --app hello",
        "godwit logs -m 148e21a5b3c9d0 --json",
        "godwit logs --select",
    )
)
def logs(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    machine: Annotated[
        str | None, typer.Option("--machine", "-m", metavar="ID", help="Of one machine only.")
    ] = None,
    select: Annotated[
        bool, typer.Option("--select", "-s", help="Choose the machine from a list.")
    ] = False,
    region: RegionOption = None,
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-tail", "-f/-n", help="Go on with new lines, until Ctrl-C."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Show what an app's machines print.

    First the last lines, then new ones as they come.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    json_ = as_json or here.wants_json
    if select and machine is not None:
        raise errors.invalid("--machine and --select: one of them")

    async def work(api: Api) -> None:
        await api.apps.get(name)
        chosen = machine
        if select:
            chosen = await connect.choose_machine(
                here, api, name, running=False, hint="without --select it shows all there is"
            )
        token = ""
        while True:
            page = await api.logs.page(name, next_token=token, instance=chosen, region=region)
            for line in page.lines:
                show(here, line, as_json=json_)
            here.out.stdout.flush()
            moved = page.next_token not in ("", token)
            token = page.next_token or token
            if not follow:
                return
            if not (moved and page.lines):
                await here.clock.sleep(_POLL_S)

    connect.call(here, work)


def show(here: session.Session, line: LogLine, *, as_json: bool) -> None:
    """Print one line of log, or one JSON object a line."""
    if as_json:
        here.out.data(line.model_dump_json())
        return
    here.out.data(rendered(line))


def rendered(line: LogLine) -> str:
    """Return a line of log with what tells where it is from."""
    where = f"app[{line.instance}]" if line.instance else "app"
    return f"{line.timestamp} {where} {line.region} [{line.level}] {line.message}"
