"""A config turned into what the Machines API takes (spec/config-cli.md §1.19).

Pure but for the files it is asked to include, which its caller reads.
"""

import base64
import binascii
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from godwit.appconfig import check, containers, groups, guests, raw
from godwit.appconfig.model import (
    Check,
    Concurrency,
    Config,
    File,
    HttpCheck,
    HttpService,
    Section,
    Service,
    ServiceBase,
    ServiceCheck,
    ServicePort,
    Static,
    Vm,
)
from godwit.base import durations

PLATFORM_VERSION = "v2"
Json = dict[str, Any]

_FIRST_PORT = 1
_LAST_PORT = 65_535
_AUTOSTOPS: tuple[bool | str, ...] = (False, True, "suspend")
"""What the API calls off, stop and suspend: from the least to the most."""
_KEPT = ("schedule", "standbys", "auto_destroy", "dns", "rootfs", "cache_drive", "mounts")
"""What belongs to a machine and no deploy touches. Mounts, until deploys know volumes."""


@dataclass(frozen=True)
class ReleaseMark:
    """What a machine remembers of the release it runs."""

    id: str
    version: int


def _no_files(path: str) -> bytes:
    raise FileNotFoundError(path)


def to_machine_config(
    config: Config,
    group: str,
    *,
    image: str,
    release: ReleaseMark | None = None,
    read_file: Callable[[str], bytes] = _no_files,
) -> Json:
    """Return the machine config of a process group.

    Args:
        config: A config without mistakes.
        group: One of `groups.names(config)`.
        image: What to run.
        release: What the machine's metadata says it runs.
        read_file: Reads a `local_path` of `[[files]]`.
    """
    base = raw.base(config)
    init = _init(config, group)
    runs: Json = {"image": image}
    if contained := containers.of(base):
        runs = {"containers": containers.placed(contained, config.container or "", image, init)}
        init = containers.rest_of_init(init)
    parts: tuple[tuple[str, Any], ...] = (
        ("init", init),
        ("guest", guest(config, group)),
        ("services", _services(config, group)),
        ("checks", _checks(config, group)),
        ("metrics", _metrics(config, group)),
        ("statics", [_static(one) for one in config.statics]),
        ("files", _files(config, group, read_file)),
        ("restart", _restart(config, group)),
        ("stop_config", _stop(config)),
        ("metadata", metadata(group, release)),
    )
    made: Json = {
        **base,
        **runs,
        "env": {**_table(base, "env"), **environment(config, group)},
    }
    for name, value in parts:
        if value:
            laid_over = isinstance(value, dict) and name != "checks"
            made[name] = _table(base, name) | value if laid_over else value
    return made


def _table(base: Json, name: str) -> Json:
    value = base.get(name)
    return value if isinstance(value, dict) else {}


def updated(current: Json, made: Json) -> Json:
    """Return the config of a machine that exists: what deploys set, and what they keep.

    Args:
        current: Its config now.
        made: What `to_machine_config` says it shall be.
    """
    result = dict(made)
    for name in _KEPT:
        if name in current:
            result[name] = current[name]
    if "guest" not in result and "guest" in current:
        result["guest"] = current["guest"]
    result["metadata"] = {**current.get("metadata", {}), **made.get("metadata", {})}
    return result


def metadata(group: str, release: ReleaseMark | None) -> dict[str, str]:
    """Return the marks of a machine that deploys manage."""
    marks = {"fly_platform_version": PLATFORM_VERSION, "fly_process_group": group}
    if release is not None:
        marks["fly_release_id"] = release.id
        marks["fly_release_version"] = str(release.version)
    return marks


def environment(config: Config, group: str) -> dict[str, str]:
    """Return the variables of a group, the deploy's own included."""
    found = {**config.env, "FLY_PROCESS_GROUP": group}
    if config.primary_region:
        found["PRIMARY_REGION"] = config.primary_region
    return found


def guest(config: Config, group: str) -> Json | None:
    """Return the size of a group's machines, or `None` when the file says nothing of it."""
    vm = _vm(config, group)
    if vm is None:
        return None
    found = guests.resolve(
        size=vm.size, cpu_kind=vm.cpu_kind, cpus=vm.cpus, memory_mb=vm.memory_mb or vm.memory
    )
    made: Json = found.model_dump()
    if vm.max_memory_mb:
        made["max_memory_mb"] = vm.max_memory_mb
    if vm.kernel_args:
        made["kernel_args"] = vm.kernel_args
    dedication = vm.host_dedication_id or config.host_dedication_id
    if dedication:
        made["host_dedication_id"] = dedication
    if vm.persist_rootfs:
        made["persist_rootfs"] = vm.persist_rootfs
    return made


def _vm(config: Config, group: str) -> Vm | None:
    """Return the section of a group: one that names it, before one that names none."""
    naming = [one for one in config.vm if group in one.processes]
    general = [one for one in config.vm if not one.processes]
    return next(iter([*naming, *general]), None)


def _init(config: Config, group: str) -> Json:
    experimental = config.experimental
    made: Json = {}
    command = shlex.split(config.processes.get(group, ""))
    if not command and experimental is not None:
        command = list(experimental.cmd)
    if command:
        made["cmd"] = command
    if experimental is not None and experimental.entrypoint:
        made["entrypoint"] = experimental.entrypoint
    if experimental is not None and experimental.exec:
        made["exec"] = experimental.exec
    if config.swap_size_mb:
        made["swap_size_mb"] = config.swap_size_mb
    return made


def _services(config: Config, group: str) -> list[Json]:
    made = []
    if config.http_service is not None and groups.applies(config, config.http_service, group):
        made.append(_http_service(config.http_service))
    made += [_service(one) for one in groups.of(config, config.services, group)]
    stops = [one["autostop"] for one in made if "autostop" in one]
    if stops:  # they share the machine: the one that wants it least often stopped decides
        least = min(stops if len(stops) == len(made) else [False], key=_AUTOSTOPS.index)
        for one in made:
            one["autostop"] = least
    return made


def _http_service(service: HttpService) -> Json:
    plain: Json = {"port": 80, "handlers": ["http"]}
    if service.force_https is not None:
        plain["force_https"] = service.force_https
    secure: Json = {"port": 443, "handlers": ["http", "tls"]}
    if service.http_options:
        plain["http_options"] = secure["http_options"] = _told(service.http_options)
    if service.tls_options:
        secure["tls_options"] = _told(service.tls_options)
    made = {
        "protocol": "tcp",
        **_service_base(service),
        "ports": [plain, secure],
    }
    checks = [_http_check(one) for one in service.checks]
    return {**made, "checks": checks} if checks else made


def _service(service: Service) -> Json:
    made = {
        "protocol": service.protocol,
        **_service_base(service),
        "ports": [_port(one) for one in service.ports],
    }
    checks = [
        *({"type": "tcp", **_timing(one)} for one in service.tcp_checks),
        *(_http_check(one) for one in service.http_checks),
    ]
    return {**made, "checks": checks} if checks else made


def _service_base(service: ServiceBase) -> Json:
    made: Json = {"internal_port": service.internal_port}
    if service.auto_stop_machines is not None:
        named = ("off", "stop", "suspend").index(service.auto_stop_machines)
        made["autostop"] = _AUTOSTOPS[named]
    if service.auto_start_machines is not None:
        made["autostart"] = service.auto_start_machines
    if service.min_machines_running is not None:
        made["min_machines_running"] = service.min_machines_running
    if service.concurrency is not None:
        made["concurrency"] = _limits(service.concurrency)
    return made


def _limits(limits: Concurrency) -> Json:
    made: Json = {"type": limits.type or "connections"}
    if limits.soft_limit is not None:
        made["soft_limit"] = limits.soft_limit
    if limits.hard_limit is not None:
        made["hard_limit"] = limits.hard_limit
    return made


def _port(port: ServicePort) -> Json:
    made = _given(port, "port", "handlers", "force_https")
    if port.port is None:  # an open end goes as far as ports go
        made["start_port"] = port.start_port or _FIRST_PORT
        made["end_port"] = port.end_port or _LAST_PORT
    for name in ("tls_options", "http_options", "proxy_proto_options"):
        options = getattr(port, name)
        if options is not None:
            made[name] = _told(options)
    return made


def _told(section: Section) -> Json:
    """Return what a table of options says, without keys nobody knows."""
    made: Json = {}
    for name in type(section).model_fields:
        if name not in section.model_fields_set:
            continue
        value = getattr(section, name)
        if isinstance(value, Section):
            made[name] = _told(value)
        elif isinstance(value, list):
            made[name] = [_told(one) if isinstance(one, Section) else one for one in value]
        else:
            made[name] = value
    return made


def _given(section: Any, *names: str) -> Json:
    """Return the fields of a section that were given."""
    values = {name: getattr(section, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def _timing(one: ServiceCheck) -> Json:
    made: Json = {}
    for name in ("interval", "timeout", "grace_period"):
        value = getattr(one, name)
        if value:
            made[name] = durations.render(check.clamp(value))
    return made


def _http_check(one: HttpCheck) -> Json:
    return {"type": "http", **_timing(one), **_http_parts(one)}


def _http_parts(one: HttpCheck) -> Json:
    made = _given(one, "method", "path", "protocol", "tls_skip_verify", "tls_server_name")
    if one.headers:
        made["headers"] = [
            {"name": name, "values": [value]} for name, value in one.headers.items()
        ]
    return made


def _checks(config: Config, group: str) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for name, one in config.checks.items():
        if groups.applies(config, one, group):
            made[name] = _check(config, one)
    return made


def _check(config: Config, one: Check) -> Json:
    made: Json = {"type": one.type, **_given(one, "kind")}
    if one.type == "exec":
        made["command"] = one.command
    elif one.port is not None:
        made["port"] = one.port
    elif config.http_service is not None:
        made["port"] = config.http_service.internal_port
    for name in ("interval", "timeout", "grace_period"):
        value = getattr(one, name)
        if value:
            made[name] = durations.render(value)
    parts = _http_parts(one)
    if "method" in parts:
        parts["method"] = parts["method"].upper()
    return {**made, **parts}


def _static(one: Static) -> Json:
    return _given(one, "guest_path", "url_prefix", "tigris_bucket", "index_document")


def _metrics(config: Config, group: str) -> Json | None:
    mine = groups.of(config, config.metrics, group)
    return {"path": "/metrics", **_given(mine[0], "port", "path", "https")} if mine else None


def _restart(config: Config, group: str) -> Json | None:
    mine = groups.of(config, config.restart, group)
    if not mine:
        return None
    made: Json = {"policy": mine[0].policy or "on-failure"}
    if mine[0].retries is not None:
        made["max_retries"] = mine[0].retries
    return made


def _stop(config: Config) -> Json:
    made: Json = {}
    if config.kill_signal:
        made["signal"] = config.kill_signal
    if config.kill_timeout:
        made["timeout"] = durations.render(config.kill_timeout)
    return made


def _files(config: Config, group: str, read_file: Callable[[str], bytes]) -> list[Json]:
    made = []
    for file in groups.of(config, config.files, group):
        source = _file_source(file, read_file)
        if source:
            made.append({"guest_path": file.guest_path, **source})
    return made


def _file_source(file: File, read_file: Callable[[str], bytes]) -> Json:
    if file.local_path:
        return {"raw_value": base64.b64encode(read_file(file.local_path)).decode()}
    if file.secret_name:
        return {"secret_name": file.secret_name}
    if not file.raw_value:
        return {}
    try:
        base64.b64decode(file.raw_value, validate=True)
    except (binascii.Error, ValueError):
        return {"raw_value": base64.b64encode(file.raw_value.encode()).decode()}
    return {"raw_value": file.raw_value}
