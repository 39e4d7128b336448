"""The machine configs of a release: of its groups, its release command, its test machines. Pure.

What `fly.toml` says is turned into a group's config by `appconfig.machine`; here is what deploys
add to that (spec/config-cli.md §1.8, §3.2, §3.3, §3.5).
"""

import shlex
from collections.abc import Sequence
from typing import Any

from godwit.appconfig import containers, groups, guests, machine
from godwit.appconfig.machine import ReleaseMark
from godwit.appconfig.model import Config, MachineCheck
from godwit.base import errors
from godwit.wire import guest_containers
from godwit.wire.host_rpc import MachineView

Json = dict[str, Any]

GROUP = "fly_process_group"
RELEASE = "fly_release_id"
MANAGED = "fly_platform_version"
RELEASE_COMMAND = "fly_app_release_command"
TEST = "fly_app_test_machine_command"
CONSOLE = "fly_app_console"
INTERNAL = frozenset({RELEASE_COMMAND, TEST, CONSOLE})
CANARY = "fly_canary"
DEPLOYMENT = "fly_bluegreen_deployment_tag"
_RELEASE_SIZE = "shared-cpu-2x"


def of_group(config: Config, group: str, image: str, mark: ReleaseMark) -> Json:
    """Return what a group's machines are made with."""
    return machine.to_machine_config(
        config, group, image=image, release=mark, read_file=_refuse_to_read
    )


def updated(current: Json, made: Json) -> Json:
    """Return the config of a machine that exists: what deploys set, and what they keep."""
    result = machine.updated(current, made)
    if result.get("services"):
        # It takes traffic now: it stands by no more (spec §3.5).
        result.pop("standbys", None)
    return with_standbys(result, result.get("standbys") or ())


def with_standbys(config: Json, watched: Sequence[str]) -> Json:
    """Return the config of a machine that stands by for others."""
    if not watched:
        return config
    env = {**config.get("env", {}), "FLY_STANDBY_FOR": ",".join(watched)}
    return {**config, "env": env, "standbys": list(watched)}


def marked(current: Json, mark: ReleaseMark) -> Json:
    """Return a machine's own config under a new release: what `secrets` deploys."""
    marks = {RELEASE: mark.id, "fly_release_version": str(mark.version)}
    return {**current, "metadata": {**current.get("metadata", {}), **marks}}


def with_metadata(config: Json, **marks: str) -> Json:
    """Return a config with more metadata."""
    return {**config, "metadata": {**config.get("metadata", {}), **marks}}


def unlisted(config: Json) -> Json:
    """Return a config whose machine has no names in the DNS."""
    return {**config, "dns": {**config.get("dns", {}), "skip_registration": True}}


def release_command(
    config: Config, command: str, image: str, mark: ReleaseMark, machines: Sequence[MachineView]
) -> Json:
    """Return the config of the machine that runs the release command."""
    group = groups.default(config)
    made = of_group(config, group, image, mark)
    kept: Json = {name: made[name] for name in ("files", "stop_config") if name in made}
    init = {name: made.get("init", {}).get(name) for name in ("entrypoint", "swap_size_mb")}
    env = {**made["env"], "RELEASE_COMMAND": "1", "FLY_PROCESS_GROUP": RELEASE_COMMAND}
    return unlisted(
        {
            **kept,
            "image": image,
            "init": {**{k: v for k, v in init.items() if v}, "cmd": shlex.split(command)},
            "env": env,
            "guest": _release_guest(config, made, group, machines),
            "restart": {"policy": "no"},
            "auto_destroy": True,
            "metadata": machine.metadata(RELEASE_COMMAND, mark),
        }
    )


def _release_guest(
    config: Config, made: Json, group: str, machines: Sequence[MachineView]
) -> Json:
    named = config.deploy.release_command_vm if config.deploy else None
    if named is not None:
        found = guests.resolve(
            size=named.size,
            cpu_kind=named.cpu_kind,
            cpus=named.cpus,
            memory_mb=named.memory_mb or named.memory,
        )
        return found.model_dump()
    mine = [
        one.config["guest"]
        for one in machines
        if group_of(one) == group and one.config.get("guest", {}).get("memory_mb")
    ]
    if mine:
        largest: Json = max(mine, key=lambda guest: int(guest["memory_mb"]))
        return largest
    guest: Json = made.get("guest") or guests.resolve(size=_RELEASE_SIZE).model_dump()
    return guest


def machine_checks(config: Config, group: str) -> list[MachineCheck]:
    """Return the tests that a group's machines have to pass (spec §1.8)."""
    found = list(config.machine_checks)
    if config.http_service is not None and groups.applies(config, config.http_service, group):
        found += config.http_service.machine_checks
    for service in groups.of(config, config.services, group):
        found += service.machine_checks
    return found


def test_machine(config: Config, check: MachineCheck, tested: MachineView) -> Json:
    """Return the config of the machine that tests another one."""
    theirs = tested.config
    init = {"cmd": list(check.command)}
    experimental = config.experimental
    entrypoint = (experimental.entrypoint if experimental else None) or check.entrypoint
    if not entrypoint and not check.image:
        entrypoint = theirs.get("init", {}).get("entrypoint") or []
    if entrypoint:
        init["entrypoint"] = list(entrypoint)
    stop: Json = {} if check.image else dict(theirs.get("stop_config") or {})
    if check.kill_signal:
        stop["signal"] = check.kill_signal
    env = {"FLY_TEST_COMMAND": "1", "FLY_TEST_MACHINE_IP": tested.private_ip}
    made: Json = {
        "image": check.image or image_of(theirs),
        "init": init,
        "env": {**theirs.get("env", {}), **env, "FLY_PROCESS_GROUP": TEST},
        "restart": {"policy": "no"},
        "auto_destroy": True,
        "metadata": {**machine.metadata(TEST, None), RELEASE: release_of(tested)},
    }
    if theirs.get("guest"):
        made["guest"] = theirs["guest"]
    return unlisted({**made, "stop_config": stop} if stop else made)


def image_of(config: Json) -> str:
    """Return what a machine runs: its image, or that of its main container."""
    named = containers.of(config)
    if not named:
        return str(config["image"])
    main = guest_containers.main_of([str(one.get("name")) for one in named])
    return str(named[main]["image"])


def group_of(view: MachineView) -> str:
    """Return a machine's process group."""
    return str((view.config.get("metadata") or {}).get(GROUP) or "")


def release_of(view: MachineView) -> str:
    """Return the id of the release a machine runs."""
    return str((view.config.get("metadata") or {}).get(RELEASE) or "")


def managed(view: MachineView) -> bool:
    """Tell whether deploys look after a machine."""
    marks = view.config.get("metadata") or {}
    return (
        marks.get(MANAGED) == machine.PLATFORM_VERSION
        and group_of(view) not in INTERNAL
        and marks.get(CANARY) != "true"
        and view.state not in ("destroyed", "destroying")
    )


def beside_deploys(view: MachineView) -> bool:
    """Tell whether a machine is there to stay, and deploys do not look after it."""
    marks = view.config.get("metadata") or {}
    return (
        marks.get(MANAGED) != machine.PLATFORM_VERSION
        and group_of(view) not in INTERNAL
        and view.state not in ("destroyed", "destroying")
    )


def left_canary(view: MachineView) -> bool:
    """Tell whether a machine is the canary of a failed deploy, left to be looked at."""
    marks = view.config.get("metadata") or {}
    return marks.get(CANARY) == "true" and view.state not in ("destroyed", "destroying")


def _refuse_to_read(path: str) -> bytes:
    raise errors.invalid(
        f"files: the content of {path} has to be in the definition",
        hint="`godwit deploy` puts it there",
    )
