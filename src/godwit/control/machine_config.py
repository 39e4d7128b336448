"""The machine config of spec/machines.md §2, checked field by field. Pure.

What is checked here is kept and returned exactly as submitted; these records are only read to
decide. Unknown fields are allowed. Go's zero values (`""`, `0`, `null`, empty lists and maps)
mean "unset", as Go clients send them for many optional fields.

What a config says is told again: to its host in one request, to whoever asks for the machine, its
services and metadata to every edge and DNS in one record of the catalog. All of these have an end
(`wire.facts.MOST_BYTES`, the bus's 512 KiB), so everything of which a config may hold many is
bounded here, before anybody is offered the machine.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from godwit.base import encoded, errors, ids, kernel_arguments
from godwit.control.config_containers import (
    MOST_CONTAINERS,
    Container,
    SharedVolume,
    check_containers,
)
from godwit.control.config_dns import Dns
from godwit.control.config_fields import (
    AbsolutePath,
    CheckHeader,
    Duration,
    EnvFrom,
    File,
    Port,
    ProcessSecret,
    Restart,
    StopConfig,
    Variables,
)
from godwit.control.config_part import Part
from godwit.control.config_ports import MOST_OPTION_BYTES, ServicePort, option_bytes
from godwit.control.config_statics import MOST_STATICS, Static
from godwit.wire import metadata

MOST_BYTES = 196_608
"""Of a whole config, as JSON in UTF-8."""
MOST_HANDED_BYTES = 57_344
"""Of what init is handed by itself; with secrets and several processes see `handed`."""
_HANDED = ("env", "files", "init", "processes", "containers", "dns")
MOST_PROCESSES = 8
MOST_PORTS = 100
MOST_CHECKS = 64
_LONGEST_CHECK = 100
_MOST_MISTAKES = 20


def _machine_id(text: str) -> str:
    if not ids.is_machine_id(text):
        raise ValueError("must be ids of machines, 14 hexadecimal digits each")
    return text


def _kernel_arguments(given: list[str]) -> list[str]:
    mistake = kernel_arguments.mistake(given)
    if mistake is not None:
        raise ValueError(mistake)
    return given


MachineId = Annotated[str, AfterValidator(_machine_id)]
Persist = Literal["", "none", "never", "restart", "always", 0, 1, 2, 3]
"""Names, or the numbers that clients written in Go have for them."""
KernelArguments = Annotated[list[str], AfterValidator(_kernel_arguments)]
Load = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Init(Part):
    """What runs, instead of what the image says."""

    exec: list[str] = []
    entrypoint: list[str] = []
    cmd: list[str] = []
    tty: bool = False
    swap_size_mb: int | None = Field(None, ge=0, le=65_536)
    kernel_args: KernelArguments = []


class Guest(Part):
    """The machine's size; the rules of sizes are in `guest_sizes`."""

    cpu_kind: Literal["shared", "performance"] | None = None
    cpus: int | None = Field(None, ge=1)
    memory_mb: int | None = Field(None, ge=1)
    max_memory_mb: int | None = Field(None, ge=1)
    gpu_kind: str | None = None
    gpus: int | None = None
    required_host_features: list[str] = []
    persist_rootfs: Persist | None = None
    kernel_args: KernelArguments = []


class Check(Part):
    """A health check; `exec` runs a command in the machine, and its exit code says how it is."""

    type: Literal["tcp", "http", "exec"]
    port: Port | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    grace_period: Duration | None = None
    method: str = "GET"
    path: str = "/"
    protocol: Literal["http", "https"] = "http"
    tls_skip_verify: bool = False
    tls_server_name: str = ""
    headers: list[CheckHeader] = Field([], max_length=50)
    kind: Literal["informational", "readiness"] | None = None
    command: list[str] = []

    @model_validator(mode="after")
    def _commands_are_for_exec(self) -> "Check":
        if self.type == "exec" and not self.command:
            raise ValueError("command: is required with type exec")
        if self.type != "exec" and self.command:
            raise ValueError("command: is for type exec alone")
        return self


class NamedCheck(Check):
    """A check beside the services: it has to say its port, unless it runs a command."""

    @model_validator(mode="after")
    def _has_port(self) -> "NamedCheck":
        if self.port is None and self.type != "exec":
            raise ValueError("port: is required")
        return self


class Concurrency(Part):
    """How much load a machine takes."""

    type: Literal["connections", "requests"] = "connections"
    soft_limit: Load | None = None
    hard_limit: Load | None = None

    @model_validator(mode="after")
    def _soft_first(self) -> "Concurrency":
        if self.soft_limit and self.hard_limit and self.soft_limit > self.hard_limit:
            raise ValueError("soft_limit is over hard_limit")
        return self


class Service(Part):
    """What the edge sends to the machine."""

    protocol: Literal["tcp", "udp"]
    internal_port: Port
    ports: list[ServicePort] = []
    checks: list[Check] = []
    concurrency: Concurrency | None = None
    autostop: bool | Literal["off", "stop", "suspend"] | None = None
    autostart: bool | None = None
    min_machines_running: int | None = Field(None, ge=0)


class Mount(Part):
    """A volume in the machine."""

    volume: str = ""
    path: AbsolutePath
    name: str = ""


class Rootfs(Part):
    """The writable disk over the image."""

    persist: Persist | None = None
    size_gb: int | None = Field(None, ge=1, le=50)


class CacheDrive(Part):
    """A disk for what can be made again, beside the root."""

    size_mb: int | None = Field(None, ge=16, le=102_400)


class Process(Part):
    """One of several processes in a machine."""

    exec: list[str] = []
    entrypoint: list[str] = []
    cmd: list[str] = []
    env: Variables = {}
    env_from: list[EnvFrom] = Field([], max_length=100)
    secrets: list[ProcessSecret] = Field([], max_length=100)
    ignore_app_secrets: bool = False
    user: str = ""

    @model_validator(mode="after")
    def _says_what_runs(self) -> "Process":
        if not (self.exec or self.entrypoint or self.cmd):
            raise ValueError("say what runs: exec, entrypoint or cmd")
        return self


class Metrics(Part):
    """Where the app's metrics are read."""

    port: Port
    path: str = "/metrics"
    https: bool = False


class Spot(Part):
    """What a machine may cost at most, against the usual price."""

    max_price_fraction: float | None = Field(None, gt=0, le=1)


class MachineConfig(Part):
    """The config of one machine."""

    image: str = Field("", max_length=1024)
    env: Variables = {}
    init: Init | None = None
    guest: Guest | None = None
    size: str = ""
    services: list[Service] = Field([], max_length=100)
    checks: dict[str, NamedCheck] = {}
    restart: Restart | None = None
    auto_destroy: bool = False
    schedule: Literal["hourly", "daily", "weekly", "monthly"] | None = None
    metadata: dict[str, str] = {}
    processes: list[Process] = Field([], max_length=MOST_PROCESSES)
    containers: list[Container] = Field([], max_length=MOST_CONTAINERS)
    volumes: list[SharedVolume] = Field([], max_length=MOST_CONTAINERS)
    files: list[File] = []
    mounts: list[Mount] = Field([], max_length=1)
    metrics: Metrics | None = None
    statics: list[Static] = Field([], max_length=MOST_STATICS)
    spot: Spot | None = None
    dns: Dns | None = None
    stop_config: StopConfig | None = None
    standbys: list[MachineId] = Field([], max_length=100)
    rootfs: Rootfs | None = None
    cache_drive: CacheDrive | None = None


class _Submitted(Part):
    """Gives the paths in messages their first word."""

    config: MachineConfig


def parse(config: dict[str, Any]) -> MachineConfig:
    """Return a submitted config, checked.

    Raises:
        Failure: `invalid_argument`, naming every wrong field by its path.
    """
    try:
        parsed = _Submitted.model_validate({"config": config or {"image": None}}).config
    except ValidationError as error:
        raise errors.invalid("; ".join(mistakes(error.errors(include_url=False)))) from error
    _refuse_what_is_not_there(parsed)
    _refuse_too_much(config, parsed)
    _check_processes(parsed)
    _check_containers(parsed)
    if parsed.standbys and parsed.services:
        raise errors.invalid(
            "config.standbys: a machine with services takes traffic and cannot stand by",
            hint="take the services out of this machine, or run it beside the others",
        )
    return parsed


def _check_processes(config: MachineConfig) -> None:
    init = config.init
    if not config.processes or init is None:
        return
    if init.exec or init.entrypoint or init.cmd:
        raise errors.invalid(
            "config.processes: what runs is said by init, too",
            hint="say it in processes alone",
        )
    if init.tty and len(config.processes) > 1:
        raise errors.invalid("config.init.tty: several processes have no terminal")


def _check_containers(config: MachineConfig) -> None:
    if not config.containers:
        if not config.image:
            raise errors.invalid("config.image: is required, unless there are containers")
        if config.volumes:
            raise errors.invalid(
                "config.volumes: are shared by containers, and there are none",
                hint="a machine's own volume is one of its mounts",
            )
        return
    init = config.init
    if config.processes or (init is not None and (init.exec or init.entrypoint or init.cmd)):
        raise errors.invalid(
            "config.containers: what runs is said by processes or init, too",
            hint="say it in containers alone",
        )
    if init is not None and init.tty:
        raise errors.invalid("config.init.tty: containers have no terminal")
    check_containers(config.containers, config.volumes, {mount.name for mount in config.mounts})


def mistakes(found: Sequence[Any]) -> list[str]:
    """Return pydantic's errors as `path: what is wrong`, the first twenty."""
    texts = [f"{path(error['loc'])}: {sentence(error)}" for error in found[:_MOST_MISTAKES]]
    return list(dict.fromkeys(texts))


def path(location: Sequence[int | str]) -> str:
    """Return `config.services[0].ports[1].port` for a place in nested data."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in _UNION_MEMBERS:
            text += f".{part}" if text else str(part)
    return text or "body"


def sentence(error: Any) -> str:
    """Return what is wrong with one value, in words for people."""
    kind = str(error["type"])
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    message = str(error["msg"])
    for before, after in (("Value error, ", ""), ("Input should be ", "must be ")):
        if message.startswith(before):
            return after + message.removeprefix(before)
    return message[:1].lower() + message[1:]


_UNION_MEMBERS = frozenset({"bool", "literal['off','stop','suspend']", "int", "str"})
_SENTENCES = {
    "missing": "is required",
    "string_pattern_mismatch": "is not what a header may hold",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "is out of range",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _refuse_what_is_not_there(config: MachineConfig) -> None:
    """Refuse what would silently not happen: parts of the platform that do not exist yet."""
    if config.mounts:
        raise errors.invalid("config.mounts: this platform has no volumes yet")
    if config.guest is not None and config.guest.required_host_features:
        raise errors.invalid(
            "config.guest.required_host_features: hosts here have no features of a name",
            hint="leave it out",
        )


def _refuse_too_much(given: Mapping[str, Any], parsed: MachineConfig) -> None:
    size = encoded.size(given)
    if size > MOST_BYTES:
        raise errors.invalid(
            f"config: has {size} bytes as JSON, at most {MOST_BYTES} are taken",
            hint="put large files into the image",
        )
    handed = {name: given[name] for name in _HANDED if name in given}
    if encoded.size(handed) > MOST_HANDED_BYTES:
        raise errors.invalid(
            f"config: env, files and init have {encoded.size(handed)} bytes as JSON, at most"
            f" {MOST_HANDED_BYTES} are taken",
            hint="put large files into the image",
        )
    parts = [part.kernel_args for part in (parsed.guest, parsed.init) if part is not None]
    mistake = kernel_arguments.mistake(list(itertools.chain.from_iterable(parts)))
    if mistake is not None:
        raise errors.invalid(f"config.guest.kernel_args: with those of init {mistake}")
    ports = sum(len(service.ports) for service in parsed.services)
    if ports > MOST_PORTS:
        raise errors.invalid(
            f"config.services: {ports} ports, at most {MOST_PORTS} are taken in all",
            hint="give adjacent ports as start_port and end_port",
        )
    options = sum(option_bytes(port) for service in parsed.services for port in service.ports)
    if options > MOST_OPTION_BYTES:
        raise errors.invalid(
            f"config.services: the options of all ports have {options} bytes as edges are told of"
            f" them, at most {MOST_OPTION_BYTES} are taken",
            hint="let the app set the headers of its responses",
        )
    checks = len(parsed.checks) + sum(len(service.checks) for service in parsed.services)
    if checks > MOST_CHECKS:
        raise errors.invalid(
            f"config.checks: {checks} with those of services, at most {MOST_CHECKS} are taken"
        )
    if any(len(name) > _LONGEST_CHECK for name in parsed.checks):
        raise errors.invalid(f"config.checks: a name has more than {_LONGEST_CHECK} characters")
    metadata.check(parsed.metadata, "config.metadata")
