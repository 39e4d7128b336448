"""fly.toml as a typed record: one class per section of spec/config-cli.md §1.

Durations are nanoseconds, memory is MB, volumes GB. Keys nobody knows are kept in
`model_extra`, so that `config validate --strict` can name them. What a section without
`processes` applies to is told by `groups`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from godwit.appconfig.fields import (
    Autostop,
    Count,
    HeaderValue,
    KernelArgs,
    MemoryMb,
    MillisecondsDuration,
    Number,
    OpenPort,
    Port,
    Positive,
    RestartPolicy,
    SecondsDuration,
    Signal,
    Strings,
    TtlSeconds,
    VolumeGb,
)


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class Compose(Section):
    """`[build.compose]`."""

    file: StrictStr | None = None


class Build(Section):
    """`[build]`: where the image comes from."""

    image: StrictStr | None = None
    dockerfile: StrictStr | None = None
    ignorefile: StrictStr | None = None
    build_target: StrictStr | None = Field(None, alias="build-target")
    args: dict[str, StrictStr] = {}
    builder: StrictStr | None = None
    buildpacks: Strings = []
    builtin: StrictStr | None = None
    settings: dict[str, Any] = {}
    compose: Compose | None = None
    compression: StrictStr | None = None
    compression_level: Any = None


class Vm(Section):
    """`[[vm]]`: the guest's size for some groups, or for all."""

    size: StrictStr | None = None
    memory: MemoryMb | None = None
    memory_mb: MemoryMb | None = None
    max_memory_mb: MemoryMb | None = None
    cpus: Positive | None = None
    cpu_kind: Literal["shared", "performance"] | None = None
    gpus: Count | None = None
    gpu_kind: StrictStr | None = None
    kernel_args: KernelArgs = []
    host_dedication_id: StrictStr | None = None
    persist_rootfs: Literal["never", "restart", "always"] | None = None
    processes: Strings = []


class Deploy(Section):
    """`[deploy]`: how a release replaces the one before.

    `auto_rollback` and `drain_timeout` are Godwit's own keys.
    """

    strategy: StrictStr | None = None
    max_unavailable: Number | None = None
    wait_timeout: SecondsDuration = None
    release_command: StrictStr | None = None
    release_command_timeout: SecondsDuration = None
    release_command_vm: Vm | None = None
    seed_command: StrictStr | None = None
    auto_rollback: StrictBool | None = None
    drain_timeout: SecondsDuration = None


class Concurrency(Section):
    """`concurrency` of a service."""

    type: Literal["connections", "requests"] | None = None
    soft_limit: Count | None = None
    hard_limit: Count | None = None


class ServiceCheck(Section):
    """A check of a service: gates what the edge sends there."""

    interval: MillisecondsDuration = None
    timeout: MillisecondsDuration = None
    grace_period: MillisecondsDuration = None


class TcpCheck(ServiceCheck):
    """`[[services.tcp_checks]]`."""


class HttpCheck(ServiceCheck):
    """`[[services.http_checks]]` and `[[http_service.checks]]`."""

    method: StrictStr | None = None
    path: StrictStr | None = None
    protocol: Literal["http", "https"] | None = None
    tls_skip_verify: StrictBool | None = None
    tls_server_name: StrictStr | None = None
    headers: dict[str, StrictStr] = {}


class Check(HttpCheck):
    """`[checks.NAME]`: told in `status`, gates deploys.

    `type = "exec"`, `command` and `kind` are Godwit's own: a command in the machine, and whether
    the check takes the machine out of routing too (`readiness`).
    """

    type: StrictStr | None = None
    port: Port | None = None
    command: Strings = []
    kind: Literal["informational", "readiness"] | None = None
    processes: Strings = []


class MachineCheck(Section):
    """`[[machine_checks]]`: a throw-away machine that tests another."""

    command: Strings = []
    image: StrictStr | None = None
    entrypoint: Strings = []
    kill_signal: Signal | None = None
    kill_timeout: SecondsDuration = None


class TlsOptions(Section):
    """`tls_options`: how the edge speaks TLS for a port."""

    alpn: Strings = []
    versions: list[Literal["TLSv1.2", "TLSv1.3"]] = []
    default_self_signed: StrictBool | None = None


class ReplayCache(Section):
    """`[[…http_options.replay_cache]]`: which replays the edge remembers."""

    path_prefix: StrictStr
    ttl_seconds: TtlSeconds
    type: Literal["cookie", "header"]
    name: StrictStr
    allow_bypass: StrictBool | None = None


class HttpResponse(Section):
    """`http_options.response`: what the edge does to answers."""

    pristine: StrictBool | None = None
    headers: dict[str, HeaderValue] = {}


class HttpOptions(Section):
    """`http_options`: how the edge speaks HTTP for a port."""

    compress: StrictBool | None = None
    h2_backend: StrictBool | None = None
    idle_timeout: Count | None = None
    headers_read_timeout: Count | None = None
    response: HttpResponse | None = None
    replay_cache: list[ReplayCache] = []


class ProxyProtoOptions(Section):
    """`proxy_proto_options`."""

    version: Literal["v1", "v2"] | None = None


class ServicePort(Section):
    """`[[services.ports]]`: an external port or a range of them."""

    port: Port | None = None
    start_port: OpenPort | None = None
    end_port: OpenPort | None = None
    handlers: list[Literal["http", "tls", "pg_tls", "proxy_proto"]] = []
    force_https: StrictBool | None = None
    tls_options: TlsOptions | None = None
    http_options: HttpOptions | None = None
    proxy_proto_options: ProxyProtoOptions | None = None


class ServiceBase(Section):
    """What both forms of a service share."""

    internal_port: Port = 8080
    auto_stop_machines: Autostop | None = None
    auto_start_machines: StrictBool | None = None
    min_machines_running: Count | None = None
    processes: Strings = []
    concurrency: Concurrency | None = None
    machine_checks: list[MachineCheck] = []


class HttpService(ServiceBase):
    """`[http_service]`: ports 80 and 443 in one."""

    force_https: StrictBool | None = None
    tls_options: TlsOptions | None = None
    http_options: HttpOptions | None = None
    checks: list[HttpCheck] = []


class Service(ServiceBase):
    """`[[services]]`."""

    protocol: Literal["tcp", "udp"] = "tcp"
    ports: list[ServicePort] = []
    tcp_checks: list[TcpCheck] = []
    http_checks: list[HttpCheck] = []


class Mount(Section):
    """`[[mounts]]`: a volume and where it appears."""

    source: StrictStr
    destination: StrictStr
    processes: Strings = []
    initial_size: VolumeGb | None = None
    snapshot_retention: Count | None = None
    scheduled_snapshots: StrictBool | None = None
    auto_extend_size_threshold: Count | None = None
    auto_extend_size_increment: VolumeGb | None = None
    auto_extend_size_limit: VolumeGb | None = None


class Static(Section):
    """`[[statics]]`."""

    guest_path: StrictStr
    url_prefix: StrictStr
    tigris_bucket: StrictStr | None = None
    index_document: StrictStr | None = None


class File(Section):
    """`[[files]]`: a file put into the machine."""

    guest_path: StrictStr
    local_path: StrictStr | None = None
    secret_name: StrictStr | None = None
    raw_value: StrictStr | None = None
    processes: Strings = []


class Metrics(Section):
    """`[[metrics]]`."""

    port: Port
    path: StrictStr | None = None
    https: StrictBool | None = None
    processes: Strings = []


class Restart(Section):
    """`[[restart]]`."""

    policy: RestartPolicy | None = None
    retries: Count | None = None
    processes: Strings = []


class AttachedSecrets(Section):
    """`[experimental.attached.secrets]`."""

    export: dict[str, StrictStr] = {}


class Attached(Section):
    """`[experimental.attached]`: what `launch --attach` gives to the other app."""

    secrets: AttachedSecrets | None = None


class Experimental(Section):
    """`[experimental]`."""

    cmd: Strings = []
    entrypoint: Strings = []
    exec: Strings = []
    machine_config: StrictStr | None = None
    attached: Attached | None = None
    auto_rollback: StrictBool | None = None
    enable_consul: StrictBool | None = None
    enable_etcd: StrictBool | None = None
    lazy_load_images: StrictBool | None = None


class Config(Section):
    """The whole file."""

    app: StrictStr | None = None
    primary_region: StrictStr | None = None
    kill_signal: Signal | None = None
    kill_timeout: SecondsDuration = None
    swap_size_mb: Count | None = None
    console_command: StrictStr | None = None
    host_dedication_id: StrictStr | None = None
    machine_config: StrictStr | None = None
    container: StrictStr | None = None
    experimental: Experimental | None = None
    build: Build | None = None
    deploy: Deploy | None = None
    env: dict[str, StrictStr] = {}
    processes: dict[str, StrictStr] = {}
    http_service: HttpService | None = None
    services: list[Service] = []
    checks: dict[str, Check] = {}
    machine_checks: list[MachineCheck] = []
    mounts: list[Mount] = []
    vm: list[Vm] = []
    statics: list[Static] = []
    files: list[File] = []
    metrics: list[Metrics] = []
    restart: list[Restart] = []
