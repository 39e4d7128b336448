"""`godwit orgs`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, times, tree
from godwit.cli.options import JsonOption

app = tree.group("Create and list organizations.")


@app.command("list", epilog=tree.examples("godwit orgs list", "godwit orgs list --json"))
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the organizations you are in."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.orgs.list())
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("slug", "name", "created"),
        [(one.slug, one.name, times.moment(one.created_at)) for one in found],
    )


@app.command(epilog=tree.examples("godwit orgs create acme", 'godwit orgs create acme --name "A"'))
def create(
    context: typer.Context,
    slug: Annotated[
        str, typer.Argument(metavar="SLUG", help="Short name: lower-case letters, digits, -.")
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Name for people.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Create an organization: apps, tokens and a private network of its own."""
    here = session.of(context)
    made = connect.call(here, lambda api: api.orgs.create(slug, name))
    if as_json or here.wants_json:
        here.out.json(made.model_dump(mode="json"))
        return
    here.out.data(made.slug)
    here.out.hint(f"create an app in it with `godwit apps create NAME --org {made.slug}`")
