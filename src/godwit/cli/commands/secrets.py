"""`godwit secrets`: set, listed by digest, deployed. Values are never printed."""

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, dotenv, session, times, tree
from godwit.cli.commands import secret_keys
from godwit.cli.options import AppOption, ConfigOption, DetachOption, JsonOption
from godwit.cli.rollout import deploy as rollout
from godwit.cli.rollout import progress
from godwit.client.api import Api
from godwit.client.deploys import Order
from godwit.client.failures import ApiFailure
from godwit.client.secrets import SecretList

app = tree.group("Set and list an app's secrets.")
app.add_typer(secret_keys.app, name="keys")

_LONGEST_INPUT = 65_536
_MOST_IMPORTED = 524_288

StageOption = Annotated[
    bool, typer.Option("--stage", help="Keep them for the next deploy; restart nothing now.")
]


@app.command(
    "set",
    epilog=tree.examples(
        "godwit secrets set DATABASE_URL=postgres://u:p@db.internal/app",
        "godwit secrets set TLS_KEY=- --stage",
    ),
)
def set_(
    context: typer.Context,
    pairs: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE…", help="- for VALUE reads it from standard input."),
    ],
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    stage: StageOption = False,
    detach: DetachOption = False,
) -> None:
    """Set secrets and restart the app's machines with them.

    What is read from standard input is taken byte by byte, a line end included. Other users of
    this computer can see a command's arguments while it runs: give what is worth it by `-`.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    _change(here, name, _given(here, pairs), stage=stage, detach=detach)


@app.command(
    "import",
    epilog=tree.examples("godwit secrets import", "godwit secrets import --stage --app shop"),
)
def import_(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    stage: StageOption = False,
    detach: DetachOption = False,
) -> None:
    """Set secrets from NAME=VALUE lines on standard input.

    Comments, quotes and values of several lines are understood as in .env files.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    text = here.read(_MOST_IMPORTED).decode(errors="surrogateescape")
    found = {key: os.fsencode(value) for key, value in dotenv.parse(text).items()}
    if not found:
        raise errors.invalid("there is no NAME=VALUE on standard input")
    _change(here, name, found, stage=stage, detach=detach)


@app.command(epilog=tree.examples("godwit secrets unset OLD_KEY", "godwit secrets unset A B"))
def unset(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Which secrets.")],
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    stage: StageOption = False,
    detach: DetachOption = False,
) -> None:
    """Remove secrets and restart the app's machines without them."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    _change(here, name, dict.fromkeys(names), stage=stage, detach=detach)


@app.command("list", epilog=tree.examples("godwit secrets list", "godwit secrets list --json"))
def list_(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List an app's secrets by name and digest, never a value.

    A secret is deployed when every machine has this value, staged when none has, else partial.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found: SecretList = connect.call(here, lambda api: api.secrets.list(name))
    if as_json or here.wants_json:
        here.out.json([one.model_dump(mode="json") for one in found.secrets])
        return
    now = here.clock.now_ms()
    here.out.table(
        ("name", "digest", "status", "changed"),
        [
            (one.name, one.digest, one.status, times.ago(one.updated_at, now))
            for one in found.secrets
        ],
    )


@app.command(epilog=tree.examples("godwit secrets deploy", "godwit secrets deploy --detach"))
def deploy(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    detach: DetachOption = False,
) -> None:
    """Restart the app's machines with the secrets that are staged.

    Image and config stay those of the last release; no file of this directory is used.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    connect.call(here, lambda api: _roll(here, api, name, detach=detach))


@app.command(epilog=tree.examples("godwit secrets sync", "godwit secrets sync --app shop"))
def sync(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell that later deploys take the newest secrets, wherever they were set.

    Elsewhere clients remember versions, and have to be told; here the platform does.
    """
    here = session.of(context)
    name = connect.app_name(here, app, config)
    found: SecretList = connect.call(here, lambda api: api.secrets.list(name))
    count = len(found.secrets)
    here.out.say(
        f"nothing is behind: every deploy of {name} takes the newest secrets, {count} of them now"
    )


@app.command(epilog=tree.examples("godwit secrets rotate", "godwit secrets rotate --app shop"))
def rotate(
    context: typer.Context,
    app: AppOption = None,
    config: ConfigOption = None,
) -> None:
    """Encrypt the app's secrets with another key; values stay and no machine notices."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    connect.call(here, lambda api: api.secrets.rotate(name))
    here.out.say(f"the secrets of {name} are encrypted with another key")


def _change(
    here: session.Session,
    name: str,
    values: Mapping[str, bytes | None],
    *,
    stage: bool,
    detach: bool,
) -> None:
    async def work(api: Api) -> None:
        version = await api.secrets.change(name, values)
        here.out.say(f"the secrets of {name} are at version {version}")
        if stage:
            here.out.hint(f"deploy them with `godwit secrets deploy --app {name}`")
        elif not await api.releases.list(name):
            here.out.say(f"{name} was not deployed yet: its first deploy takes them along")
        else:
            await _roll(here, api, name, detach=detach)

    connect.call(here, work)


async def _roll(here: session.Session, api: Api, name: str, *, detach: bool) -> None:
    """Have every machine of an app replaced by itself with the newest secrets."""
    try:
        begun = await api.deploys.begin(name, Order({}, "", kind="secrets"))
    except ApiFailure as failure:
        hint = failure.hint or f"they are kept; later: `godwit secrets deploy --app {name}`"
        raise errors.Failure(failure.code, failure.message, hint=hint) from failure
    if detach:
        here.out.say(f"release v{begun.release.version} is on its way")
        return
    with progress.of(here.out) as telling:
        ended = await rollout.followed(here, api, begun, telling)
    here.out.say(f"release v{ended.release.version}: every machine has them")


def _given(here: session.Session, pairs: list[str]) -> dict[str, bytes | None]:
    """Return what the arguments set; values are not repeated in what is said of mistakes.

    Raises:
        Failure: `invalid_argument`.
    """
    split = [pair.partition("=") for pair in pairs]
    for at, (_, equals, _value) in enumerate(split, 1):
        if not equals:
            raise errors.invalid(
                f"argument {at} is not NAME=VALUE", hint="write NAME=- to read it from stdin"
            )
    if sum(value == "-" for *_, value in split) > 1:
        raise errors.invalid("only one value can come from standard input")
    return {
        name: here.read(_LONGEST_INPUT) if value == "-" else os.fsencode(value)
        for name, _, value in split
    }
