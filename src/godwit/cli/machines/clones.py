"""The config of a machine's copy. Pure."""

import copy
from dataclasses import dataclass, field
from typing import Any

from godwit.base import errors
from godwit.cli import guest
from godwit.cli.machines import wanted
from godwit.cli.rollout.overrides import Size
from godwit.client.records import Machine

Json = dict[str, Any]

_SOURCE = "source"
_STANDBY_FOR = "FLY_STANDBY_FOR"


@dataclass(frozen=True)
class Changes:
    """What is different in a copy.

    Attributes:
        command: What runs instead, one line.
        clear_command: Whether the image's own runs again.
        clear_auto_destroy: Whether it stays when it exits.
        standby_for: `source`, or ids of machines, with commas.
        size: Its size.
    """

    command: str | None = None
    clear_command: bool = False
    clear_auto_destroy: bool = False
    standby_for: str | None = None
    size: Size = field(default_factory=Size)


def config_of(source: Machine, changes: Changes) -> Json:
    """Return the config of a copy; one of a standby is none, unless it is asked for.

    Raises:
        Failure: The source has a volume, or something asked for cannot be.
    """
    if source.config.get("mounts"):
        raise errors.Failure(
            "failed_precondition",
            f"machine {source.id} has a volume, and this platform has no volumes yet",
        )
    made = copy.deepcopy(source.config)
    _lay_command(made, changes)
    if changes.clear_auto_destroy:
        made.pop("auto_destroy", None)
    if changes.size.given():
        made["guest"] = guest.changed(made, changes.size)
        made.pop("size", None)
    _lay_standby(made, source, changes.standby_for)
    return made


def _lay_command(made: Json, changes: Changes) -> None:
    if changes.command is not None and changes.clear_command:
        raise errors.invalid("give --override-cmd or --clear-cmd, not both")
    if changes.command is not None:
        command = wanted.words(changes.command, "--override-cmd")
        made["init"] = {**(made.get("init") or {}), "cmd": command}
    elif changes.clear_command and made.get("init"):
        made["init"] = {key: value for key, value in made["init"].items() if key != "cmd"}


def _lay_standby(made: Json, source: Machine, standby_for: str | None) -> None:
    made.pop("standbys", None)
    env = {key: value for key, value in (made.get("env") or {}).items() if key != _STANDBY_FOR}
    if standby_for:
        ids = wanted.standbys([standby_for.replace(_SOURCE, source.id)])
        made["standbys"] = ids
        env[_STANDBY_FOR] = ",".join(ids)
    if env or "env" in made:
        made["env"] = env
