"""`godwit releases`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, times, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption

app = tree.single()


@app.command(epilog=tree.examples("godwit releases", "godwit releases --image"))
def releases(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    image: Annotated[bool, typer.Option("--image", help="Show each release's image.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List an app's releases.

    The newest first.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found = connect.call(here, lambda api: api.releases.list(name))
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    now = here.clock.now_ms()
    headers = ("version", "status", "description", "user", "date")
    here.out.table(
        (*headers, "image") if image else headers,
        [
            (
                f"v{one.version}",
                one.status,
                one.description,
                one.user,
                times.ago(one.created_at, now),
                *([one.image] if image else []),
            )
            for one in found
        ],
    )
