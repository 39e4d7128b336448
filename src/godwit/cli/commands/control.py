"""`godwit control`: the control plane of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from godwit.base import errors
from godwit.cli import connect, session, tree
from godwit.cli.commands import up
from godwit.cli.options import JsonOption, YesOption
from godwit.client.secrets import RootKeys
from godwit.control import residence
from godwit.host import database_move

app = tree.group("Look after the control plane of this machine.")


@app.callback()
def control() -> None:
    """Look after the control plane of this machine."""


@app.command(
    "move-database",
    epilog=tree.examples(
        "godwit control move-database --to postgresql://godwit@db.internal/godwit",
        "godwit control move-database --to - --yes",
        "godwit control move-database --to sqlite",
    ),
)
def move_database(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL",
            help="A postgresql:// URL, `sqlite` for the file in the data directory, or `-` to"
            " read it from stdin: other users see a command's arguments.",
        ),
    ],
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the end.")
    ] = 600.0,
    yes: YesOption = False,
    as_json: JsonOption = False,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
) -> None:
    """Carry the rows of a running platform to another database, all of them or none.

    The API is away meanwhile, for seconds with thousands of machines; machines and their traffic
    are not touched. What was moved is verified, the old database is marked and never written
    again, and the platform stays in the new one across restarts. If anything fails, it goes on
    with the old one.
    """
    here = session.of(context)
    url = here.stdin.readline().strip() if to == "-" else to
    if not url:
        raise errors.invalid("no URL came from stdin")
    here.confirm(f"Move the platform's database to {residence.place(url)}?", yes=yes)
    moved = database_move.move(
        up.resolve(context, settings_file), url, timeout_s=timeout_s, told=here.out.say
    )
    if as_json or here.wants_json:
        here.out.json({"place": moved.place, "rows": moved.rows, "away_s": round(moved.away_s, 3)})
        return
    here.out.table(("table", "rows"), [(name, count) for name, count in moved.rows.items()])
    here.out.say(
        f"The platform is in {moved.place}; the API was away for {moved.away_s:.1f} s at most."
    )


@app.command(
    "rotate-keys",
    epilog=tree.examples("godwit control rotate-keys", "godwit control rotate-keys --yes --json"),
)
def rotate_keys(
    context: typer.Context, yes: YesOption = False, as_json: JsonOption = False
) -> None:
    """Make another root key and wrap every app's keys with it; needs the operator's token.

    Values stay and no machine notices. The former root key is removed about a minute later, once
    nothing uses it. Copies of the keyring's directory made before open only databases of before:
    make new ones.
    """
    here = session.of(context)
    here.confirm("Make another root key for the secrets of every app?", yes=yes)
    found: RootKeys = connect.call(here, lambda api: api.secrets.rotate_root())
    if as_json or here.wants_json:
        here.out.json(found.model_dump(mode="json"))
        return
    here.out.say(f"a new root key wraps the keys of all apps; wrapped again: {found.rewrapped}")
    if len(found.root_keys) > 1:
        here.out.hint(
            "the former one is removed in a minute; back up the keyring's directory anew"
        )
