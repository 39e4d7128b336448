"""`godwit version`."""

import platform

import typer

import godwit
from godwit.cli import session, tree
from godwit.cli.options import JsonOption

app = tree.single()


@app.command(epilog=tree.examples("godwit version", "godwit version --json"))
def version(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show this program's version."""
    here = session.of(context)
    if as_json or here.wants_json:
        here.out.json({"version": godwit.__version__, "python": platform.python_version()})
        return
    here.out.data(f"godwit {godwit.__version__}")
