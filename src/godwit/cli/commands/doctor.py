"""`godwit doctor`: what this host can and cannot do."""

from pathlib import Path
from typing import Annotated

import typer

from godwit.cli import exits, session, tree
from godwit.cli.commands import up
from godwit.cli.options import JsonOption
from godwit.host import doctor as host_doctor

app = tree.single()


@app.command(epilog=tree.examples("godwit doctor", "godwit doctor --json"))
def doctor(
    context: typer.Context,
    as_json: JsonOption = False,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Settings of this host, TOML."),
    ] = None,
) -> None:
    """Tell what this host can and cannot do.

    Exits 1 when something is missing that `godwit up` needs.
    """
    here = session.of(context)
    findings = host_doctor.examine_now(up.resolve(context, settings_file))
    if as_json or here.wants_json:
        here.out.json([finding.as_json() for finding in findings])
    else:
        rows = [(f.verdict, f.subject, f.sentence) for f in findings]
        here.out.table(("", "what", "finding"), rows)
    if host_doctor.verdict(findings) == "missing":
        raise typer.Exit(exits.FAILED)
