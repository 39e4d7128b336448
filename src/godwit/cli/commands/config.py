"""`godwit config`: what the platform has of an app's config, and the file here."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from godwit.appconfig import check, files, groups, later, lines, machine, problems, writing
from godwit.base import errors
from godwit.cli import connect, definition, session, tree
from godwit.cli.options import AppOption, ConfigOption, JsonOption, YesOption
from godwit.client.secrets import Secret

app = tree.group("Show, save and check the app's configuration.")

Format = Literal[".json", ".toml", ".yaml"]
LocalOption = Annotated[
    bool, typer.Option("--local", help="The file here, instead of what was deployed last.")
]
TomlOption = Annotated[bool, typer.Option("--toml", help="As TOML.")]
YamlOption = Annotated[bool, typer.Option("--yaml", help="As YAML.")]


@app.command(
    epilog=tree.examples(
        "godwit config show",
        "godwit config show --app hello --toml",
        "godwit config show --local --machine",
    )
)
def show(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    local: LocalOption = False,
    as_toml: TomlOption = False,
    as_yaml: YamlOption = False,
    as_machine: Annotated[
        bool, typer.Option("--machine", help="The machine config of each process group.")
    ] = False,
    as_json: JsonOption = True,
) -> None:
    """Print the config that runs, or with --local the file's.

    As JSON unless told otherwise, in canonical spelling.
    """
    del as_json
    here = session.of(context)
    loaded = _local(here, config) if local else _remote(here, app, config)
    loaded.checked()
    if as_machine:
        here.out.json(_machine_configs(loaded))
        return
    suffix = _format(as_toml=as_toml, as_yaml=as_yaml)
    here.out.raw(writing.as_format(loaded.document, suffix))


def _format(*, as_toml: bool = False, as_yaml: bool = False) -> Format:
    if as_toml and as_yaml:
        raise errors.invalid("--toml and --yaml: one of them")
    return ".toml" if as_toml else ".yaml" if as_yaml else ".json"


def _local(here: session.Session, config: str | None) -> files.Loaded:
    path = files.find(here.directory, config)
    if path is None:
        raise errors.not_found(
            f"there is no {', '.join(files.NAMES)} in {here.directory}",
            hint="`godwit launch` writes one, `godwit config save --app NAME` brings one here",
        )
    return files.load(path)


def _remote(here: session.Session, app: str | None, config: str | None) -> files.Loaded:
    """Return what was deployed last, and say which release that is."""
    name = connect.app_name(here, app, config)
    found = connect.call(here, lambda api: definition.released(api, name))
    here.out.say(f"Release v{found.version} of {name} ({found.status})")
    return files.understand(here.directory / files.NAMES[0], found.config)


def _machine_configs(loaded: files.Loaded) -> dict[str, Any]:
    checked = loaded.checked()
    image = (checked.build.image if checked.build else None) or ""
    return {
        group: machine.to_machine_config(
            checked,
            group,
            image=image,
            read_file=lambda name: (loaded.path.parent / name).read_bytes(),
        )
        for group in groups.names(checked)
    }


@app.command(
    epilog=tree.examples(
        "godwit config save --app hello", "godwit config save --yaml", "godwit config save --yes"
    )
)
def save(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write fly.json.")] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Write fly.yaml.")] = False,
    yes: YesOption = False,
) -> None:
    """Write the config that runs into a file here.

    A fly.toml that is there keeps its comments and its order; only what differs is changed.
    """
    here = session.of(context)
    if as_json and as_yaml:
        raise errors.invalid("--json and --yaml: one of them")
    suffix: Format = ".json" if as_json else ".yaml" if as_yaml else ".toml"
    path = _target(here, config, suffix)
    name = connect.app_name(here, app, str(path) if path.is_file() else None)
    found = connect.call(here, lambda api: definition.released(api, name))
    document = {**files.understand(path, found.config).document, "app": name}
    text = _rewritten(path, document)
    if path.is_file():
        if path.read_text(encoding="utf-8") == text:
            here.out.say(f"{path} says the same as release v{found.version}")
            return
        here.confirm(f"Change {path} to what release v{found.version} has?", yes=yes)
    path.write_text(text, encoding="utf-8")
    here.out.say(f"Wrote release v{found.version} of {name} to {path}")


def _target(here: session.Session, config: str | None, suffix: Format) -> Path:
    if config is None:
        return here.directory / f"fly{suffix}"
    path = here.directory / config
    path = path / f"fly{suffix}" if path.is_dir() else path
    if path.suffix not in (".toml", ".json", ".yaml", ".yml"):
        raise errors.invalid(f"--config {config}: expected a .toml, .json or .yaml file")
    return path


def _rewritten(path: Path, document: dict[str, Any]) -> str:
    """Return the file's new text; one in TOML that can be read keeps what it can."""
    if path.suffix == ".toml" and path.is_file() and files.load(path).document:
        return writing.rewritten(path.read_text(encoding="utf-8"), document)
    return writing.as_format(document, path.suffix)


@app.command(epilog=tree.examples("godwit config validate", "godwit config validate --strict"))
def validate(
    context: typer.Context,
    config: ConfigOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", "-s", help="Refuse keys nobody knows, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell everything that is wrong with the config file here."""
    here = session.of(context)
    loaded = _local(here, config)
    found = list(loaded.found)
    if strict and loaded.config is not None:
        found += _unknown(loaded)
    if loaded.config is not None:
        found += later.without_effect(loaded.config)
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


@app.command(
    epilog=tree.examples("godwit config env", "godwit config env --local", "godwit config env -j")
)
def env(
    context: typer.Context,
    *,
    app: AppOption = None,
    config: ConfigOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the environment variables each process group gets, and the names of secrets.

    Never a secret's value. With --local there are no secrets: the file has none.
    """
    here = session.of(context)
    checked = (_local(here, config) if local else _remote(here, app, config)).checked()
    found = {group: machine.environment(checked, group) for group in groups.names(checked)}
    kept = [] if local else _secrets(here, app, config)
    if as_json or here.wants_json:
        here.out.json({"env": found, "secrets": [one.model_dump(mode="json") for one in kept]})
        return
    rows = [
        (group, name, value)
        for group, values in found.items()
        for name, value in sorted(values.items())
    ]
    rows += [("all", one.name, f"(secret, {one.status or one.digest})") for one in kept]
    here.out.table(("process", "name", "value"), rows)


def _secrets(here: session.Session, app: str | None, config: str | None) -> list[Secret]:
    """Return the app's secrets; none for a token that may not list them."""
    name = connect.app_name(here, app, config)
    try:
        return connect.call(here, lambda api: api.secrets.list(name)).secrets
    except errors.Failure as failure:
        if failure.code not in ("permission_denied", "not_found"):
            raise
        here.out.warn(f"secrets are not shown: {failure.message}")
        return []
