"""`godwit tokens`."""

from collections.abc import Mapping
from typing import Annotated

import typer

from godwit.base import durations, errors
from godwit.cli import connect, session, times, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption, OrgOption, YesOption
from godwit.client.api import Api
from godwit.client.records import NewToken

app = tree.group("Create, list and revoke API tokens.")

_READS = ("orgs:read", "apps:read", "machines:read", "secrets:read", "logs:read")
_KINDS: Mapping[str, tuple[str, ...]] = {"org": (), "readonly": _READS}
"""The kinds of stock clients that are here, and what each may do; nothing named is everything."""
_DEPLOY = "deploy"
"""The kind for one app alone."""
_LATER: Mapping[str, str] = {
    "machine-exec": "tokens for single commands are not there yet",
    "ssh": "tokens for SSH are not there yet",
    "wireguard": "tokens for WireGuard are not there yet",
}


@app.command(
    epilog=tree.examples(
        "godwit tokens create ci --org acme",
        "godwit tokens create deploy --app hello --expiry 720h",
        "godwit tokens create readonly --org acme --name dashboards",
        "godwit tokens create reader --scope apps:read --scope machines:read --expiry 720h",
    )
)
def create(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|KIND",
            help="What it is for, for people; or `deploy`, `org` or `readonly`.",
        ),
    ],
    *,
    named: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of a token whose kind is given.")
    ] = None,
    app: AppOption = None,
    config: ConfigOption = None,
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
    """Make a token and print it; it is shown this once.

    `deploy` makes one for a single app, which may do with it all that you may: the one for a
    deploy by a machine of yours. The other kinds are for a single organization: `org` may do there
    all that you may, `readonly` only look.
    """
    here = session.of(context)
    if expiry is not None:
        _demand_duration(expiry)
    _refuse_what_is_not_there(name)
    kind = _KINDS.get(name)
    if kind is not None and scope:
        raise errors.invalid(f"--scope: a token of the kind {name} has its own")
    one_app = connect.app_name(here, app, config) if name == _DEPLOY or app else None

    async def work(api: Api) -> NewToken:
        slug = org or here.environ.get("FLY_ORG")
        if kind is not None:
            slug = await connect.organization(here, api, org)
        return await api.tokens.create(
            named or name,
            org_slug=slug if one_app is None else org,
            scopes=kind or scope or (),
            expiry=expiry,
            app_name=one_app,
        )

    made = connect.call(here, work)
    if as_json or here.wants_json:
        here.out.json(made.model_dump(mode="json"))
        return
    here.out.data(made.token)
    here.out.hint(f"take it back with `godwit tokens revoke {made.id}`")


def _refuse_what_is_not_there(kind: str) -> None:
    """Refuse kinds that would be taken for a narrower token than they could be here.

    Raises:
        Failure: It is one of them.
    """
    if kind in _LATER:
        raise errors.invalid(
            f"{kind}: {_LATER[kind]}",
            hint="`godwit tokens create NAME --org ORG --scope SCOPE` makes one for a whole "
            "organization that may do no more than you say",
        )


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
        ("id", "name", "organization", "apps", "scopes", "created", "expires", "revoked"),
        [
            (
                one.id,
                one.name,
                one.org_slug,
                ",".join(one.apps),
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
