"""`godwit auth`."""

import typer

from godwit.base import errors
from godwit.cli import connect, session, tree
from godwit.cli.options import JsonOption

app = tree.group("Show who you are to the platform.")


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


@app.command(epilog=tree.examples("export FLY_API_TOKEN=$(godwit auth token)"))
def token(context: typer.Context, as_json: JsonOption = False) -> None:
    """Print the token that is used."""
    here = session.of(context)
    found = here.settings.token
    if not found:
        raise errors.Failure(
            "unauthenticated",
            "there is no access token",
            hint="`godwit up` on this host writes one; elsewhere set FLY_API_TOKEN",
        )
    if as_json or here.wants_json:
        here.out.json({"token": found})
        return
    here.out.data(found)
