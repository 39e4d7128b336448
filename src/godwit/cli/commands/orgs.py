"""`godwit orgs`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, times, tree
from godwit.cli.options import JsonOption, YesOption

app = tree.group("Create, list, show and delete organizations.")


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


@app.command(epilog=tree.examples("godwit orgs show acme", "godwit orgs show acme --json"))
def show(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The organization.")],
    as_json: JsonOption = False,
) -> None:
    """Show an organization, and what it takes of the registry and of hosts' disks."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.orgs.show(slug))
    if as_json or here.wants_json:
        here.out.json(found.model_dump(mode="json"))
        return
    disk = found.disk
    here.out.pairs(
        {
            "slug": found.slug,
            "name": found.name,
            "created": times.moment(found.created_at),
            "registry": f"{disk.registry_bytes >> 20} of {disk.registry_limit_bytes >> 20} MB",
            "images on hosts": f"{disk.image_bytes >> 20} MB",
            "machines' disks": f"{disk.machine_bytes >> 20} MB",
        }
    )
    if disk.silent_hosts:
        here.out.warn(f"hosts that did not answer: {', '.join(disk.silent_hosts)}")


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


@app.command(epilog=tree.examples("godwit orgs delete acme", "godwit orgs delete acme --yes"))
def delete(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The organization.")],
    yes: YesOption = False,
) -> None:
    """Delete an organization that has no apps, with its tokens and logins at registries."""
    here = session.of(context)
    here.confirm(f"Delete the organization {slug}, and revoke its tokens?", yes=yes)
    connect.call(here, lambda api: api.orgs.delete(slug))
    here.out.say(f"deleted {slug}")
