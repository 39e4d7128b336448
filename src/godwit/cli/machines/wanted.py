"""A machine's config as flags make it: from nothing, or laid over the one it has. Pure."""

import copy
import json
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from godwit.appconfig import containers, sizes
from godwit.base import errors, ids
from godwit.cli import guest, ports
from godwit.cli.machines.flags import Flags
from godwit.cli.rollout import overrides

Json = dict[str, Any]

_SCHEDULES = ("hourly", "daily", "weekly", "monthly")
_PERSISTS = ("never", "restart", "always")
_POLICIES = {"no": "no", "always": "always", "on-fail": "on-failure", "on-failure": "on-failure"}
_AUTOSTOP: dict[str, bool | str] = {
    "off": False,
    "false": False,
    "stop": True,
    "true": True,
    "suspend": "suspend",
}


def new(
    image: str,
    flags: Flags,
    *,
    cmd: Sequence[str] = (),
    rm: bool = False,
    read: Callable[[str], str],
) -> Json:
    """Return the config of a new machine.

    Args:
        image: What it runs.
        flags: What flags say.
        cmd: Words after the image, instead of its own.
        rm: Whether it is destroyed when it exits.
        read: Reads a file that `--machine-config` names.

    Raises:
        Failure: A flag has a value that cannot be.
    """
    given = _given(flags.machine_config, read)
    made: Json = {**given, "image": image}
    if contained := containers.of(given):
        made["containers"] = containers.placed(contained, "", image, {})
        del made["image"]
    made["guest"] = guest.changed(made, flags.size)
    made.pop("size", None)
    if rm:
        made["auto_destroy"] = True
    made = _laid(made, flags, cmd)
    if "restart" not in made:
        made["restart"] = {"policy": _usual_policy(flags, rm=rm)}
    return {name: value for name, value in made.items() if value not in ([], {}, None)}


def changed(
    config: Json, flags: Flags, *, image: str | None = None, read: Callable[[str], str]
) -> Json:
    """Return a machine's config with the flags laid over it.

    Variables and metadata are added, services with the same port replaced, the rest set.

    Raises:
        Failure: A flag has a value that cannot be.
    """
    made = {**copy.deepcopy(config), **_given(flags.machine_config, read)}
    if image and (contained := containers.of(made)):
        made["containers"] = containers.placed(contained, "", image, {})
    elif image:
        made["image"] = image
    if flags.size.given():
        made["guest"] = guest.changed(made, flags.size)
        made.pop("size", None)
    return _laid(made, flags, ())


def words(line: str, flag: str) -> list[str]:
    """Return a command line split into words.

    Raises:
        Failure: It has a quote that does not end.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise errors.invalid(f"{flag}: {error} in {line}") from error


def standbys(named: Sequence[str]) -> list[str]:
    """Return the ids in `--standby-for`, with or without commas.

    Raises:
        Failure: One is no id.
    """
    found = [part for one in named for part in one.split(",") if part]
    for one in found:
        if not ids.is_machine_id(one):
            raise errors.invalid(
                f'--standby-for: "{one}" is not the id of a machine',
                hint="list them with `godwit machine list`",
            )
    return found


def _laid(made: Json, flags: Flags, cmd: Sequence[str]) -> Json:
    for name, pairs in (
        ("env", overrides.pairs(flags.env, "--env")),
        ("metadata", overrides.pairs(flags.metadata, "--metadata")),
        ("init", _init(flags, cmd)),
        ("dns", {"skip_registration": True} if flags.skip_dns_registration else {}),
        ("rootfs", _rootfs(flags)),
        ("cache_drive", _cache_drive(flags)),
        ("guest", {"kernel_args": flags.kernel_arg} if flags.kernel_arg else {}),
    ):
        if pairs:
            made[name] = {**(made.get(name) or {}), **pairs}
    if flags.restart is not None:
        made["restart"] = {**(made.get("restart") or {}), "policy": _policy(flags.restart)}
    if flags.schedule is not None:
        made["schedule"] = _schedule(flags.schedule)
    if flags.standby_for is not None:
        made["standbys"] = standbys(flags.standby_for)
    _lay_services(made, flags)
    return made


def _lay_services(made: Json, flags: Flags) -> None:
    services = {_key(one): one for one in made.get("services") or []}
    for one in ports.services(flags.port):
        services[_key(one)] = {**services.get(_key(one), {}), **one}
    asked: Json = {}
    if flags.autostop is not None:
        asked["autostop"] = _autostop(flags.autostop)
    if flags.autostart is not None:
        asked["autostart"] = flags.autostart
    if asked and not services:
        raise errors.invalid(
            f"--{next(iter(asked))}: the machine has no service",
            hint="give it one with --port",
        )
    if services:
        made["services"] = [{**one, **asked} for one in services.values()]


def _key(service: Json) -> tuple[Any, Any]:
    return service.get("internal_port"), service.get("protocol")


def _given(named: str | None, read: Callable[[str], str]) -> Json:
    """Return the config that `--machine-config` gives: JSON, or a file with it."""
    if named is None:
        return {}
    text = named if named.lstrip().startswith("{") else read(named)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise errors.invalid(f"--machine-config: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise errors.invalid("--machine-config: expected an object")
    return found


def _init(flags: Flags, cmd: Sequence[str]) -> Json:
    if cmd and flags.command_line is not None:
        raise errors.invalid("--command: the command is there already, after the image")
    made: Json = {}
    command = list(cmd) or words(flags.command_line or "", "--command")
    if command:
        made["cmd"] = command
    if flags.entrypoint:
        made["entrypoint"] = words(flags.entrypoint, "--entrypoint")
    if flags.swap_size is not None:
        made["swap_size_mb"] = _megabytes(flags.swap_size, "--swap-size")
    return made


def _megabytes(text: str, flag: str) -> int:
    """Return a size in MB; `0` is none."""
    if text == "0":
        return 0
    try:
        return sizes.memory_mb(float(text) if text.isdecimal() else text)
    except ValueError as error:
        raise errors.invalid(f"{flag}: {error}") from error


def _rootfs(flags: Flags) -> Json:
    made: Json = {}
    if flags.rootfs_size:
        made["size_gb"] = flags.rootfs_size
    if flags.rootfs_persist is not None:
        if flags.rootfs_persist not in _PERSISTS:
            raise errors.invalid(
                f'--rootfs-persist: expected {", ".join(_PERSISTS)}, got "{flags.rootfs_persist}"'
            )
        made["persist"] = flags.rootfs_persist
    return made


def _cache_drive(flags: Flags) -> Json:
    if flags.cachedrive_size is None:
        return {}
    return {"size_mb": _megabytes(flags.cachedrive_size, "--cachedrive-size")}


def _schedule(named: str) -> str:
    if named not in _SCHEDULES:
        raise errors.invalid(f'--schedule: expected {", ".join(_SCHEDULES)}, got "{named}"')
    return named


def _usual_policy(flags: Flags, *, rm: bool) -> str:
    """Return when a machine is restarted about which nobody said anything.

    What runs on a schedule has to end by itself.
    """
    if rm:
        return "no"
    return "on-failure" if flags.schedule else "always"


def _policy(named: str) -> str:
    if named not in _POLICIES:
        raise errors.invalid(f'--restart: expected no, always or on-fail, got "{named}"')
    return _POLICIES[named]


def _autostop(named: str) -> bool | str:
    if named not in _AUTOSTOP:
        raise errors.invalid(f'--autostop: expected off, stop or suspend, got "{named}"')
    return _AUTOSTOP[named]
