"""The machine config of spec/machines.md §2, checked field by field. Pure.

What is checked here is kept and returned exactly as submitted; these records are only read to
decide. Unknown fields are allowed. Go's zero values (`""`, `0`, `null`, empty lists and maps)
mean "unset", as Go clients send them for many optional fields.
"""

import base64
import binascii
import contextlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from godwit.base import durations, errors

STOP_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM")
LONGEST_STOP_MS = 300_000
_MOST_MISTAKES = 20


def duration_ms(value: object) -> int:
    """Return Go's notation (`1m30s`) or whole nanoseconds in milliseconds.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value // 10**6
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            total = durations.parse(value)
            if total >= 0:
                return total // durations.MILLISECOND
    raise ValueError("must be a duration such as 10s, 1m30s or 500ms")


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


def _variable(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} is not the name of a variable")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL byte")
    return values


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("must be base64") from error
    return text


def _is_zero(value: object) -> bool:
    return value is None or (not isinstance(value, bool) and value in ("", 0)) or value in ([], {})


def _signal(name: str) -> str:
    spoken = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    if spoken not in STOP_SIGNALS:
        raise ValueError(f"must be one of {', '.join(STOP_SIGNALS)}")
    return spoken


Duration = Annotated[int, BeforeValidator(duration_ms)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Variables = Annotated[dict[str, str], AfterValidator(_variable)]
Port = Annotated[int, Field(ge=1, le=65_535)]
StopSignal = Annotated[str, AfterValidator(_signal)]


class Part(BaseModel):
    """A part of the config: strict types, zero values dropped, unknown fields allowed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_zero_values(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if not _is_zero(value)}
        return given


class Init(Part):
    """What runs, instead of what the image says."""

    exec: list[str] = []
    entrypoint: list[str] = []
    cmd: list[str] = []
    tty: bool = False
    swap_size_mb: int | None = Field(None, ge=0, le=65_536)
    kernel_args: list[str] = []


class Guest(Part):
    """The machine's size; the rules of sizes are in `guest_sizes`."""

    cpu_kind: Literal["shared", "performance"] | None = None
    cpus: int | None = Field(None, ge=1)
    memory_mb: int | None = Field(None, ge=1)
    max_memory_mb: int | None = Field(None, ge=1)
    gpu_kind: str | None = None
    gpus: int | None = None
    kernel_args: list[str] = []


class Check(Part):
    """A health check."""

    type: Literal["tcp", "http"]
    port: Port | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    grace_period: Duration | None = None
    method: str = "GET"
    path: str = "/"
    protocol: Literal["http", "https"] = "http"
    tls_skip_verify: bool = False
    tls_server_name: str = ""
    kind: Literal["informational", "readiness"] | None = None


class NamedCheck(Check):
    """A check beside the services: it has to say its port."""

    @model_validator(mode="after")
    def _has_port(self) -> "NamedCheck":
        if self.port is None:
            raise ValueError("port: is required")
        return self


class ServicePort(Part):
    """An external port, or a range of them."""

    port: Port | None = None
    start_port: Port | None = None
    end_port: Port | None = None
    handlers: list[Literal["http", "tls", "pg_tls", "proxy_proto", "tcp"]] = []
    force_https: bool = False

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "ServicePort":
        ranged = self.start_port is not None or self.end_port is not None
        if self.port is not None and ranged:
            raise ValueError("give port, or start_port and end_port, not both")
        if ranged:
            if self.start_port is None or self.end_port is None:
                raise ValueError("start_port and end_port go together")
            if self.start_port > self.end_port:
                raise ValueError("start_port is after end_port")
        elif self.port is None:
            raise ValueError("port: is required")
        if self.force_https and "http" not in self.handlers:
            raise ValueError("force_https needs the http handler")
        return self


class Concurrency(Part):
    """How much load a machine takes."""

    type: Literal["connections", "requests"] = "connections"
    soft_limit: int | None = Field(None, ge=1)
    hard_limit: int | None = Field(None, ge=1)

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


class Restart(Part):
    """What happens when the main process exits."""

    policy: Literal["no", "never", "always", "on-failure", "on-fail", "spot-price"] | None = None
    max_retries: int | None = Field(None, ge=0, le=10_000)


class StopConfig(Part):
    """How the main process is asked to end."""

    signal: StopSignal | None = None
    timeout: Duration | None = None

    @field_validator("timeout")
    @classmethod
    def _bounded(cls, value: int | None) -> int | None:
        if value is not None and value > LONGEST_STOP_MS:
            raise ValueError("must be at most 5m")
        return value


class File(Part):
    """A file put into the root before the process starts."""

    guest_path: AbsolutePath
    raw_value: Annotated[str, AfterValidator(_base64)] | None = None
    secret_name: str | None = None
    image_config: str | None = None
    mode: int | None = Field(None, ge=0, le=0o7777)

    @model_validator(mode="after")
    def _one_source(self) -> "File":
        given = (self.raw_value, self.secret_name, self.image_config)
        if sum(value is not None for value in given) > 1:
            raise ValueError("give one of raw_value, secret_name and image_config")
        return self


class DnsOption(Part):
    """An option of the resolver."""

    name: str = ""
    value: str = ""


class Dns(Part):
    """Names of the machine, and how it finds others."""

    skip_registration: bool = False
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[DnsOption] = []
    hostname: str = ""
    hostname_fqdn: str = ""


class Mount(Part):
    """A volume in the machine."""

    volume: str = ""
    path: AbsolutePath
    name: str = ""


class Rootfs(Part):
    """The writable disk over the image."""

    persist: Literal["never", "none", "restart", "always"] | None = None
    size_gb: int | None = Field(None, ge=1, le=50)


class Process(Part):
    """One of several processes in a machine."""

    exec: list[str] = []
    entrypoint: list[str] = []
    cmd: list[str] = []
    env: Variables = {}
    user: str = ""


class Metrics(Part):
    """Where the app's metrics are read."""

    port: Port
    path: str = "/metrics"
    https: bool = False


class MachineConfig(Part):
    """The config of one machine."""

    image: str = Field(min_length=1, max_length=1024)
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
    processes: list[Process] = []
    containers: list[dict[str, Any]] = []
    files: list[File] = []
    mounts: list[Mount] = Field([], max_length=1)
    metrics: Metrics | None = None
    dns: Dns | None = None
    stop_config: StopConfig | None = None
    standbys: list[str] = []
    rootfs: Rootfs | None = None


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
    return parsed


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
    missing = {
        "mounts": (bool(config.mounts), "volumes"),
        "containers": (bool(config.containers), "machines of several containers"),
        "processes": (bool(config.processes), "processes beside init's"),
        "schedule": (config.schedule is not None, "scheduled machines"),
        "rootfs.persist": (
            config.rootfs is not None and config.rootfs.persist in ("restart", "always"),
            "persistent root file systems",
        ),
        "files": (
            any(file.secret_name or file.image_config for file in config.files),
            "files from secrets and images",
        ),
    }
    for name, (asked, what) in missing.items():
        if asked:
            raise errors.invalid(f"config.{name}: this platform has no {what} yet")
