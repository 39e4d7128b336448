"""`godwit auth`."""

from dataclasses import replace
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, docker, session, settings, tree
from godwit.cli.options import JsonOption

app = tree.group("Log in to a platform, and show who you are to it.")

_FROM_ENVIRONMENT = ("FLY_ACCESS_TOKEN", "FLY_API_TOKEN")


@app.command(epilog=tree.examples("godwit auth whoami", "godwit auth whoami --json"))
def whoami(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show whose token is used, and for which organizations."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.tokens.current())
    if as_json or here.wants_json:
        here.out.json(found)
        return
    here.out.table(
        ("token", "user", "organization", "apps"),
        [
            (
                one.get("token_id"),
                one.get("user"),
                one.get("org_slug") or one.get("organization"),
                ", ".join(one.get("apps") or []) or "all",
            )
            for one in found
        ],
    )


@app.command(
    epilog=tree.examples(
        "godwit auth login --api https://api.example.org",
        "godwit auth login --token-stdin",
    )
)
def login(
    context: typer.Context,
    *,
    api_url: Annotated[
        str | None, typer.Option("--api", metavar="URL", help="Where the API is; else as before.")
    ] = None,
    edge_url: Annotated[
        str | None, typer.Option("--edge", metavar="URL", help="Where apps answer.")
    ] = None,
    apps_domain: Annotated[
        str | None, typer.Option("--apps-domain", metavar="NAME", help="What they are below.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", metavar="HOST", help="Of the platform's images.")
    ] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the token from standard input.")
    ] = False,
) -> None:
    """Keep a token for the commands to come, once the platform knows it.

    Somebody with a token makes one for you, with `godwit tokens create`; there are no passwords.
    """
    here = session.of(context)
    known = here.settings
    given = {
        "api_url": api_url,
        "edge_url": edge_url,
        "apps_domain": apps_domain,
        "registry": registry,
        "token": _given_token(here, token_stdin=token_stdin),
    }
    wanted = settings.checked(replace(known, **{key: one for key, one in given.items() if one}))

    found = connect.call(here, lambda api: api.tokens.current(), at=wanted)
    at = settings.keep(here.environ, wanted)
    users = ", ".join(sorted({str(one.get("user")) for one in found}))
    here.out.say(f"Logged in at {wanted.api_url} as {users}; kept in {at}")
    for name in _FROM_ENVIRONMENT:
        if here.environ.get(name):
            here.out.warn(f"{name} is set, and goes before what was kept")


def _given_token(here: session.Session, *, token_stdin: bool) -> str:
    """Return the token: from the flag, standard input, or whoever is at the terminal.

    Raises:
        Failure: There is none.
    """
    if here.token:
        return here.token
    if token_stdin:
        found = here.stdin.read().strip()
    elif here.ask_secret is not None:
        found = here.ask_secret("Token: ").strip()
    else:
        raise errors.invalid("the token is missing", hint="pass --token-stdin and send it there")
    if not found:
        raise errors.invalid("the token is empty")
    return found


@app.command(epilog=tree.examples("godwit auth logout"))
def logout(context: typer.Context) -> None:
    """Forget the token that is kept; it goes on working until it is revoked."""
    here = session.of(context)
    at = settings.path(here.environ)
    known = settings.kept(here.environ)
    if known.token is None:
        here.out.say(f"no token is kept in {at}")
        return
    settings.keep(here.environ, replace(known, token=None))
    here.out.say(f"Forgot the token in {at}")
    here.out.hint("`godwit tokens revoke ID` makes it worthless for everybody")


@app.command("docker", epilog=tree.examples("godwit auth docker"))
def docker_(context: typer.Context) -> None:
    """Log this user's docker in at the platform's registry, with the token that is used."""
    here = session.of(context)
    written = docker.log_in(here.environ, here.settings.registry, _token(here))
    where = f"; kept in {written}" if written else ""
    here.out.say(f"docker may push to {here.settings.registry}/APP{where}")


@app.command(epilog=tree.examples("export FLY_API_TOKEN=$(godwit auth token)"))
def token(context: typer.Context, as_json: JsonOption = False) -> None:
    """Print the token that is used."""
    here = session.of(context)
    found = _token(here)
    if as_json or here.wants_json:
        here.out.json({"token": found})
        return
    here.out.data(found)


def _token(here: session.Session) -> str:
    found = here.settings.token
    if not found:
        raise errors.Failure(
            "unauthenticated",
            "there is no access token",
            hint="`godwit up` on this host writes one; elsewhere `godwit auth login` keeps one",
        )
    return found
