"""What a machine that scaling adds to a group is made of. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from godwit.appconfig import containers, files, groups, machine
from godwit.appconfig.machine import ReleaseMark
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli import guest
from godwit.cli.rollout.overrides import Size
from godwit.client.records import Machine, Release

Json = dict[str, Any]

_OF_A_STANDBY = "FLY_STANDBY_FOR"
_OF_ONE_DEPLOY = ("fly_bluegreen_deployment_tag", "fly_previous_alloc")


@dataclass(frozen=True)
class Source:
    """What new machines run.

    Attributes:
        image: Of the last complete release.
        mark: Of the same.
        config: The definition of the newest release, which may be one that failed.
    """

    image: str
    mark: ReleaseMark
    config: Config


@dataclass(frozen=True)
class Changes:
    """What flags change in new machines."""

    env: Mapping[str, str]
    size: Size


def source(app: str, releases: list[Release]) -> Source:
    """Return what new machines run, from an app's releases, the newest first.

    Raises:
        Failure: No release is complete, or the newest one's definition has mistakes.
    """
    complete = next((one for one in releases if one.status == "complete"), None)
    if complete is None:
        raise errors.Failure(
            "failed_precondition",
            f"no release of {app} is complete: there is nothing to scale",
            hint=f"deploy it first, with `godwit deploy --app {app}`",
        )
    definition = files.understand(Path(files.NAMES[0]), {**(releases[0].config or {}), "app": app})
    mark = ReleaseMark(complete.id, complete.version)
    return Source(complete.image, mark, definition.checked())


def config_of(group: str, mine: list[Machine], source: Source, changes: Changes) -> Json:
    """Return the config of a new machine of a group.

    Args:
        group: Which one.
        mine: Its machines; the first that is no standby is copied.
        source: What it runs.
        changes: What flags change.

    Raises:
        Failure: It would need a volume, or a file that only a deploy can read.
    """
    made = _copied(mine[0].config, source) if mine else _defined(group, source)
    if made.get("mounts"):
        raise errors.Failure(
            "failed_precondition",
            f"machines of {group} have volumes, which this release cannot create yet",
        )
    if changes.env:
        made["env"] = {**made.get("env", {}), **changes.env}
    if changes.size.given():
        made["guest"] = guest.changed(made, changes.size)
        made.pop("size", None)
    return made


def _copied(config: Json, source: Source) -> Json:
    made = {key: value for key, value in config.items() if key != "standbys"}
    env = {key: one for key, one in (config.get("env") or {}).items() if key != _OF_A_STANDBY}
    made.pop("env", None)
    if env:
        made["env"] = env
    kept = {
        key: value
        for key, value in (config.get("metadata") or {}).items()
        if key not in _OF_ONE_DEPLOY
    }
    group = kept.get("fly_process_group", "")
    made["metadata"] = {**kept, **machine.metadata(group, source.mark)}
    contained = containers.of(made)
    if contained:
        made["containers"] = containers.renewed(contained, source.config, source.image)
    else:
        made["image"] = source.image
    return made


def _defined(group: str, source: Source) -> Json:
    mine = groups.of(source.config, source.config.files, group)
    if any(one.local_path for one in mine):
        raise errors.Failure(
            "failed_precondition",
            f"{group} has no machine to copy, and its files are in the folder it is deployed from",
            hint="deploy from there: that makes the group's first machine",
        )
    return machine.to_machine_config(source.config, group, image=source.image, release=source.mark)
