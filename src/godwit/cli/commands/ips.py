"""`godwit ips`: the addresses of an app, and the private ones of its machines."""

from dataclasses import dataclass
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption, YesOption
from godwit.cli.taking import taking
from godwit.client.addresses import AddressAssignment, Within
from godwit.client.api import Api

app = tree.group("Allocate, list and release the addresses of an app.")

RegionOption = Annotated[
    str, typer.Option("--region", "-r", metavar="CODE", help="Only `global` is there.")
]
SharedOption = Annotated[
    bool, typer.Option("--shared", help="The address that all apps share, free of choice.")
]
PrivateOption = Annotated[
    bool,
    typer.Option("--private", help="A Flycast address: for the machines of one network alone."),
]
WithinOrgOption = Annotated[
    str,
    typer.Option(
        "--org",
        "-o",
        metavar="SLUG",
        help="Whose machines reach it; else the app's own network.",
    ),
]
WithinNetworkOption = Annotated[
    str, typer.Option("--network", metavar="NAME", help="Their network; else `default`.")
]
AddressesArgument = Annotated[list[str], typer.Argument(metavar="ADDRESS...")]


@dataclass(frozen=True)
class WhereFlags:
    """What flags say of the app that gets an address, and of what is shown of it."""

    app: AppOption = None
    config: ConfigOption = None
    region: RegionOption = "global"
    as_json: JsonOption = False


@app.callback()
def ips() -> None:
    """Allocate, list and release the addresses of an app."""


@app.command("list", epilog=tree.examples("godwit ips list", "godwit ips list --app web --json"))
def list_(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the addresses of an app."""
    here = session.of(context)
    name = connect.app_name(here, app, config)

    async def work(api: Api) -> list[AddressAssignment]:
        return await api.addresses.list(name)

    found = connect.call(here, work)
    _show(here, found, as_json=as_json)
    if not found and not (as_json or here.wants_json):
        here.out.hint(f"{name} has none of its own; it answers under its name all the same")


@app.command(epilog=tree.examples("godwit ips allocate-v4", "godwit ips allocate-v4 --shared"))
@taking
def allocate_v4(
    context: typer.Context,
    *,
    where: WhereFlags,
    shared: SharedOption = False,
    yes: YesOption = False,
) -> None:
    """Give an app an IPv4 address of its own, or the one that all share."""
    del yes  # nothing is asked: it costs nothing here
    kinds = ("shared_v4",) if shared else ("v4",)
    _allocate(context, where, kinds)


@app.command(epilog=tree.examples("godwit ips allocate-v6", "godwit ips allocate-v6 --private"))
@taking
def allocate_v6(
    context: typer.Context,
    *,
    where: WhereFlags,
    private_: PrivateOption = False,
    org: WithinOrgOption = "",
    network: WithinNetworkOption = "",
) -> None:
    """Give an app an IPv6 address of its own, public or within a private network."""
    if not private_ and (org or network):
        raise errors.invalid("--org and --network: go with --private")
    within = Within(org, network) if private_ else None
    _allocate(context, where, ("private_v6",) if private_ else ("v6",), within)


@app.command(epilog=tree.examples("godwit ips allocate"))
@taking
def allocate(
    context: typer.Context,
    *,
    where: WhereFlags,
) -> None:
    """Give an app what is usual: an IPv6 address of its own and the shared IPv4 address."""
    _allocate(context, where, ("v6", "shared_v4"))


@app.command(epilog=tree.examples("godwit ips release 203.0.113.7"))
def release(
    context: typer.Context,
    addresses: AddressesArgument,
    app: AppOption = None,
    config: ConfigOption = None,
    yes: YesOption = False,
) -> None:
    """Take addresses from an app; somebody else may have a public one next."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    here.confirm(f"Release {', '.join(addresses)} of {name}?", yes=yes)

    async def work(api: Api) -> None:
        for one in addresses:
            await api.addresses.release(name, one)
            here.out.say(f"Released {one}")

    connect.call(here, work)


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


def _allocate(
    context: typer.Context,
    where: WhereFlags,
    kinds: tuple[str, ...],
    within: Within | None = None,
) -> None:
    """Ask for one address after another; those that were given are shown, whatever comes next."""
    here = session.of(context)
    name = connect.app_name(here, where.app, where.config)
    given: list[AddressAssignment] = []

    async def work(api: Api) -> None:
        for kind in kinds:
            one = await api.addresses.allocate(name, kind, where.region, within)
            given.append(one)

    try:
        connect.call(here, work)
    except errors.Failure:
        if given:
            _show(here, given, as_json=where.as_json)
        raise
    _show(here, given, as_json=where.as_json)


def _show(here: session.Session, found: list[AddressAssignment], *, as_json: bool) -> None:
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("version", "ip", "type", "region", "created"),
        [
            (
                "v6" if ":" in one.ip else "v4",
                one.ip,
                _kind(one),
                one.region,
                one.created_at or "",
            )
            for one in found
        ],
    )


def _kind(one: AddressAssignment) -> str:
    if one.network is not None:
        return f"private ({one.network.org_slug}/{one.network.name})"
    return "shared" if one.shared else "dedicated"
