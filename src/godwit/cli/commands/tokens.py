"""`godwit tokens`."""

from typing import Annotated

import typer

from godwit.base import durations, errors
from godwit.cli import connect, session, times, tree
from godwit.cli.options import JsonOption, OrgOption, YesOption

app = tree.group("Create, list and revoke API tokens.")


@app.command(
    epilog=tree.examples(
        "godwit tokens create ci --org acme",
        "godwit tokens create reader --scope apps:read --scope machines:read --expiry 720h",
    )
)
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, for people.")],
    *,
    org: OrgOption = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", metavar="SCOPE", help="What it may do; may be repeated."),
    ] = None,
    expiry: Annotated[
        str | None,
        typer.Option("--expiry", "-x", metavar="DURATION", help="How long it works, e.g. 720h."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it; it is shown this once."""
    here = session.of(context)
    if expiry is not None:
        _demand_duration(expiry)
    slug = org or here.environ.get("FLY_ORG")
    made = connect.call(
        here,
        lambda api: api.tokens.create(name, org_slug=slug, scopes=scope or (), expiry=expiry),
    )
    if as_json or here.wants_json:
        here.out.json(made.model_dump(mode="json"))
        return
    here.out.data(made.token)
    here.out.hint(f"take it back with `godwit tokens revoke {made.id}`")


def _demand_duration(text: str) -> None:
    try:
        durations.parse(text)
    except ValueError as error:
        raise errors.invalid(f"--expiry: {error}") from error


@app.command("list", epilog=tree.examples("godwit tokens list", "godwit tokens list -o acme -j"))
def list_(context: typer.Context, org: OrgOption = None, as_json: JsonOption = False) -> None:
    """List tokens, without their secrets."""
    here = session.of(context)
    found = connect.call(here, lambda api: api.tokens.list(org or here.environ.get("FLY_ORG")))
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found])
        return
    here.out.table(
        ("id", "name", "organization", "scopes", "created", "expires", "revoked"),
        [
            (
                one.id,
                one.name,
                one.org_slug,
                ",".join(one.scopes),
                times.moment(one.created_at),
                times.moment(one.expires_at),
                times.moment(one.revoked_at),
            )
            for one in found
        ],
    )


@app.command(epilog=tree.examples("godwit tokens revoke tok_01j… --yes"))
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="From `godwit tokens list`.")],
    yes: YesOption = False,
) -> None:
    """Make a token worthless, now."""
    here = session.of(context)
    here.confirm(f"Revoke the token {token_id}?", yes=yes)
    connect.call(here, lambda api: api.tokens.revoke(token_id))
    here.out.say(f"revoked {token_id}")
