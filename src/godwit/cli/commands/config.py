"""`godwit config`: all of it on this machine, without the platform."""

from typing import Annotated, Any

import typer

from godwit.appconfig import check, files, groups, later, lines, machine, problems
from godwit.base import errors
from godwit.cli import session, tree
from godwit.cli.options import ConfigOption, JsonOption

app = tree.group("Show and check the config file.")


def _loaded(here: session.Session, config: str | None) -> files.Loaded:
    path = files.find(here.directory, config)
    if path is None:
        raise errors.not_found(
            f"there is no {', '.join(files.NAMES)} in {here.directory}",
            hint="`godwit launch` writes one",
        )
    return files.load(path)


@app.command(epilog=tree.examples("godwit config show", "godwit config show --machine"))
def show(
    context: typer.Context,
    config: ConfigOption = None,
    as_machine: Annotated[
        bool, typer.Option("--machine", help="Show the machine config of each group instead.")
    ] = False,
    as_json: JsonOption = True,
) -> None:
    """Print the config file as JSON, in the form everything else reads."""
    del as_json
    here = session.of(context)
    loaded = _loaded(here, config)
    checked = loaded.checked()
    if not as_machine:
        here.out.json(loaded.document)
        return
    here.out.json(
        {
            group: machine.to_machine_config(
                checked,
                group,
                image=(checked.build.image if checked.build else None) or "",
                read_file=lambda name: (loaded.path.parent / name).read_bytes(),
            )
            for group in groups.names(checked)
        }
    )


@app.command(epilog=tree.examples("godwit config validate", "godwit config validate --strict"))
def validate(
    context: typer.Context,
    config: ConfigOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", "-s", help="Refuse keys nobody knows, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell everything that is wrong with the config file."""
    here = session.of(context)
    loaded = _loaded(here, config)
    found = list(loaded.found)
    if strict and loaded.config is not None:
        found += _unknown(loaded)
    if loaded.config is not None:
        found += later.without_effect(loaded.config, tls=here.settings.tls)
    wrong = [one for one in found if one.severity == "error"]
    if as_json or here.wants_json:
        here.out.json({"valid": not wrong, "problems": [_as_json(one) for one in found]})
        if wrong:
            raise typer.Exit(2)
        return
    for one in found:
        if one.severity == "warning":
            here.out.warn(one.told(loaded.name))
    if wrong:
        raise problems.failure(loaded.name, wrong)
    here.out.data(f"{loaded.name} is valid")


def _unknown(loaded: files.Loaded) -> list[problems.Problem]:
    """Return unknown keys as errors, each with its line."""
    if loaded.config is None:
        return []
    text = loaded.path.read_text(encoding="utf-8")
    places = lines.of_toml(text) if loaded.path.suffix == ".toml" else lines.of_yaml(text)
    return [
        problems.Problem(one.path, one.message, "error", lines.find(places, one.path))
        for one in check.unknown_keys(loaded.config)
    ]


def _as_json(one: problems.Problem) -> dict[str, Any]:
    return {
        "path": problems.dotted(one.path),
        "message": one.message,
        "severity": one.severity,
        "line": one.line,
    }


@app.command(epilog=tree.examples("godwit config env", "godwit config env --json"))
def env(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the environment variables each process group gets from the config file."""
    here = session.of(context)
    checked = _loaded(here, config).checked()
    found = {group: machine.environment(checked, group) for group in groups.names(checked)}
    if as_json or here.wants_json:
        here.out.json(found)
        return
    here.out.table(
        ("process", "name", "value"),
        [
            (group, name, value)
            for group, values in found.items()
            for name, value in sorted(values.items())
        ],
    )
