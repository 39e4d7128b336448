"""The tree of commands: groups with aliases, modules loaded on demand, options on every leaf."""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer import core

import godwit
from godwit.cli import early, session, spelling
from godwit.cli.registry import Entry

VERBS = {
    "ls": "list",
    "rm": "destroy",
    "remove": "destroy",
    "delete": "destroy",
}
"""Other names of verbs, in every group that has the verb."""
_NAMES = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_SECTION_GAP = 3
EVERYWHERE = frozenset({"access_token", "debug"})
"""The options that every command has, by their parameters' names."""


def examples(*lines: str) -> str:
    """Return the end of a command's help: how it is used."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def group(help_text: str, *, lists: bool = False) -> typer.Typer:
    """Return an empty group of commands.

    Args:
        help_text: What it is for.
        lists: Whether the group alone is its verb `list`.
    """
    return typer.Typer(
        help=help_text,
        cls=ListByDefault if lists else Group,
        no_args_is_help=not lists,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=_NAMES,
    )


def single() -> typer.Typer:
    """Return the holder of one command that is no group."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_NAMES)


class Group(core.TyperGroup):
    """A group whose verbs also answer to the names in `VERBS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the options that are meant for the verb."""
        return super().parse_args(ctx, _put_by(ctx, args))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name or another name of its verb."""
        return super().get_command(ctx, cmd_name) or super().get_command(
            ctx, VERBS.get(cmd_name, cmd_name)
        )


class ListByDefault(Group):
    """A group that lists when no verb is named: `godwit releases` is `godwit releases list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the verb that may have been left out."""
        args = _put_by(ctx, args)
        first = args[0] if args else "-"
        completing = ctx.resilient_parsing
        if first.startswith("-") and first not in ("-h", "--help") and not completing:
            args = ["list", *args]
        return super().parse_args(ctx, args)


class Root(core.TyperGroup):
    """`godwit` itself: knows its commands by name and loads the one that is asked for."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(
            name="godwit",
            help="Run apps in microVMs on your own servers.\n\nExit codes: 0 done, 1 failed, "
            "2 wrong usage or config, 3 platform not reached, 4 not found, 5 not permitted.",
            no_args_is_help=True,
            rich_markup_mode=None,
            context_settings=_NAMES,
        )
        self._entries = {entry.name: entry for entry in entries}
        self._aliases = {alias: entry.name for entry in entries for alias in entry.aliases}
        known: Any = dict.fromkeys(self._entries)
        self.commands = known  # for Typer's "did you mean"
        self.params.append(_option(_version_option, "version"))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the options that are meant for the command."""
        return super().parse_args(ctx, _put_by(ctx, args))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's
        """Return the names, in the order of the registry."""
        return list(self._entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the base class's
        """Return a command, loading its module."""
        entry = self._entries.get(self._aliases.get(cmd_name, cmd_name))
        if entry is None:
            return None
        command = typer.main.get_command(importlib.import_module(entry.module).app)
        command.name = entry.name
        _add_to_leaves(command)
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the base class's
        """Write the list of commands by section, without loading any."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for entry in self._entries.values():
            sections.setdefault(entry.section, []).append((entry.name, entry.summary))
        width = max(map(len, self._entries))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), summary) for name, summary in rows],
                    col_spacing=_SECTION_GAP,
                )


def _put_by(ctx: Any, args: list[str]) -> list[str]:
    """Return the arguments without the options at their front, which the command gets."""
    given, rest = early.taken(args)
    session.of(ctx).early += given
    return rest


def _add_to_leaves(command: Any) -> None:
    """Give every command that does something the options they all have."""
    if isinstance(command, core.TyperGroup):
        for one in command.commands.values():
            _add_to_leaves(one)
        return
    command.params.append(_option(_token_option, "access_token"))
    command.params.append(_option(_debug_option, "debug"))
    command.parse_args = functools.partial(_parse, command, command.parse_args)
    command.context_settings = {**_NAMES, **(command.context_settings or {})}


def _parse(command: Any, parse: Callable[[Any, list[str]], Any], ctx: Any, args: list[str]) -> Any:
    """Parse a command's arguments, however scripts spell them."""
    args, left_out = spelling.ours(command, [*session.of(ctx).early, *args])
    if left_out and not ctx.resilient_parsing:
        told = ", ".join(dict.fromkeys(left_out))
        session.of(ctx).out.say(f"({told}: nothing to choose here)")
    return parse(ctx, args)


def _keep_token(context: typer.Context, value: str | None) -> None:
    if value and not context.resilient_parsing:
        session.of(context).token = value


def _debug(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        session.of(context).debug = True


def _tell_version(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        session.of(context).out.data(f"godwit {godwit.__version__}")
        raise typer.Exit


def _token_option(
    access_token: Annotated[
        str | None,
        typer.Option(
            "--access-token",
            "-t",
            metavar="TOKEN",
            help="API token; else FLY_ACCESS_TOKEN, FLY_API_TOKEN, cli.json.",
            callback=_keep_token,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """Carry the option every command has."""


def _debug_option(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            "--verbose",
            help="Show where in the program a failure arises.",
            callback=_debug,
            expose_value=False,
        ),
    ] = False,
) -> None:
    """Carry the other option every command has."""


def _version_option(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show this program's version.",
            callback=_tell_version,
            is_eager=True,
            expose_value=False,
        ),
    ] = False,
) -> None:
    """Carry an option of the program itself."""


def _option(template: Any, name: str) -> Any:
    """Return the option that a function declares, made by Typer itself."""
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command()(template)
    command = typer.main.get_command(holder)
    return next(one for one in command.params if one.name == name)
