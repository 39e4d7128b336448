"""`godwit checks list`."""

from typing import Annotated

import typer

from godwit.cli import connect, session, times, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption
from godwit.client.records import CheckStatus, Machine

app = tree.group("List the health checks of an app's machines.")

_SHOWN_OUTPUT = 60


@app.callback()
def checks() -> None:
    """List the health checks of an app's machines."""


@app.command(
    "list",
    epilog=tree.examples(
        "godwit checks list",
        "godwit checks list --check-name alive",
        "godwit checks list --app hello --json",
    ),
)
def list_(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    check_name: Annotated[
        str | None, typer.Option("--check-name", help="Show the checks of this name only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the checks of an app's machines: what each said last, and since when it is so."""
    here = session.of(context)
    name = connect.app_name(here, app, config)
    machines = connect.call(here, lambda api: api.machines.list(name))
    found = [
        (machine, check)
        for machine in sorted(machines, key=lambda one: (one.group(), one.id))
        for check in sorted(machine.checks, key=lambda one: one.name)
        if check_name in (None, check.name)
    ]
    if as_json or here.wants_json:
        here.out.json(
            [{"machine_id": m.id, **check.model_dump(mode="json")} for m, check in found]
        )
    elif found:
        _table(here, found)
    else:
        here.out.say("no checks")


def _table(here: session.Session, found: list[tuple[Machine, CheckStatus]]) -> None:
    now = here.clock.now_ms()
    here.out.table(
        ("name", "status", "machine", "last change", "output"),
        [
            (
                check.name,
                check.status,
                machine.id,
                times.ago(check.updated_at, now),
                _first_words(check.output),
            )
            for machine, check in found
        ],
    )


def _first_words(output: str) -> str:
    """Return an output on one line, cut where it is long; `--json` has all of it."""
    line = " ".join(output.split())
    return line if len(line) <= _SHOWN_OUTPUT else f"{line[: _SHOWN_OUTPUT - 1]}…"
