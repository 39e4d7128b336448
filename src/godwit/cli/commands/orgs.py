"""`godwit orgs`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, times, tree
from godwit.cli.options import JsonOption, YesOption

app = tree.group("Create, list, show and delete organizations.")
across = tree.group("Let an organization's apps replay requests across its networks, or not.")
app.add_typer(across, name="cross-network-replays")


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
            "replays across networks": "yes" if found.cross_network_replays else "no",
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


@across.command(epilog=tree.examples("godwit orgs cross-network-replays enable acme"))
def enable(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The organization.")],
) -> None:
    """Let its apps send requests by fly-replay to apps in any of its networks."""
    _allow_across_networks(context, slug, allowed=True)


@across.command(epilog=tree.examples("godwit orgs cross-network-replays disable acme"))
def disable(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The organization.")],
) -> None:
    """Keep replays within each of its networks, as they are at first."""
    _allow_across_networks(context, slug, allowed=False)


def _allow_across_networks(context: typer.Context, slug: str, *, allowed: bool) -> None:
    here = session.of(context)
    connect.call(here, lambda api: api.orgs.allow_cross_network_replays(slug, allowed))
    where = "any of its networks" if allowed else "the network of their sender alone"
    here.out.say(f"replays of {slug}'s apps go to {where}")
