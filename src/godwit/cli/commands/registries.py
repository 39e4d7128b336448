"""`godwit registries`."""

from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session, times, tree
from godwit.cli.options import JsonOption, OrgOption, YesOption
from godwit.client.api import Api
from godwit.client.registries import Registry

app = tree.group("Log in to private registries of others.")

_HostArgument = Annotated[
    str,
    typer.Argument(metavar="HOST", help="host[:port]; docker.io for Docker Hub."),
]


@app.command(
    epilog=tree.examples(
        "godwit registries login ghcr.io --username bot --password-stdin",
        "godwit registries login docker.io -u acme --password-stdin --org acme",
    )
)
def login(
    context: typer.Context,
    registry: _HostArgument,
    username: Annotated[
        str, typer.Option("--username", "-u", metavar="NAME", help="User name there.")
    ],
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    org: OrgOption = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Keep it without asking the registry.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give an organization a user name and password for a registry."""
    here = session.of(context)
    password = _password(here, registry, password_stdin=password_stdin)

    async def work(api: Api) -> tuple[str, Registry]:
        slug = await connect.organization(here, api, org)
        kept = await api.registries.login(
            registry, org_slug=slug, username=username, password=password, unchecked=unchecked
        )
        return slug, kept

    slug, kept = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(kept.model_dump(mode="json"))
        return
    here.out.say(f"{slug} may use images of {kept.registry} as {kept.username}")


def _password(here: session.Session, registry: str, *, password_stdin: bool) -> str:
    """Return the password; never from the command line, which other users can read.

    Raises:
        Failure: Nobody is there to type it and `--password-stdin` was not given, or it is empty.
    """
    if password_stdin:
        given = here.stdin.read().removesuffix("\n").removesuffix("\r")
    elif here.ask_secret is not None:
        given = here.ask_secret(f"Password for {registry}: ")
    else:
        raise errors.invalid(
            "the password is missing", hint="pass --password-stdin and send it there"
        )
    if not given:
        raise errors.invalid("the password is empty")
    return given


@app.command(
    "list", epilog=tree.examples("godwit registries list", "godwit registries list -o acme -j")
)
def list_(context: typer.Context, org: OrgOption = None, as_json: JsonOption = False) -> None:
    """List the registries an organization is logged in to; passwords are never shown."""
    here = session.of(context)

    async def work(api: Api) -> list[Registry]:
        return await api.registries.list(await connect.organization(here, api, org))

    found = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("registry", "user name", "since"),
        [(one.registry, one.username, times.moment(one.updated_at)) for one in found],
    )


@app.command(epilog=tree.examples("godwit registries logout ghcr.io --yes"))
def logout(
    context: typer.Context, registry: _HostArgument, org: OrgOption = None, yes: YesOption = False
) -> None:
    """Forget a user name and password; machines that run go on running."""
    here = session.of(context)
    here.confirm(f"Forget the password for {registry}?", yes=yes)

    async def work(api: Api) -> str:
        slug = await connect.organization(here, api, org)
        await api.registries.logout(registry, org_slug=slug)
        return slug

    here.out.say(f"{connect.call(here, work)} has no password for {registry} any more")
