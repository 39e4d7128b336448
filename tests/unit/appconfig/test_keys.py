"""Every key that fly.toml has is known: none of them is passed over in silence."""

from typing import Any, Union, get_args, get_origin

import pytest

from godwit.appconfig import check, files, model

CHECK = """
    grace_period interval timeout method path protocol tls_skip_verify tls_server_name headers
"""
MACHINE_CHECK = "command image entrypoint kill_signal kill_timeout"
VM = """
    size memory memory_mb max_memory_mb cpus cpu_kind gpus gpu_kind kernel_args
    host_dedication_id persist_rootfs processes
"""
TLS = "alpn versions default_self_signed"
HTTP = "compress h2_backend idle_timeout headers_read_timeout response replay_cache"
SERVICE = """
    internal_port auto_stop_machines auto_start_machines min_machines_running processes
    concurrency machine_checks
"""
KEYS = {
    "": """
        app primary_region kill_signal kill_timeout swap_size_mb console_command
        host_dedication_id machine_config container experimental build deploy env processes
        http_service services checks machine_checks mounts vm statics files metrics restart
    """,
    "build": """
        image dockerfile ignorefile build-target args builder buildpacks builtin settings compose
        compression compression_level
    """,
    "build.compose": "file",
    "deploy": """
        strategy max_unavailable wait_timeout release_command release_command_timeout
        release_command_vm seed_command auto_rollback drain_timeout
    """,
    "deploy.release_command_vm": VM,
    "http_service": f"{SERVICE} force_https tls_options http_options checks",
    "http_service.concurrency": "type soft_limit hard_limit",
    "http_service.tls_options": TLS,
    "http_service.http_options": HTTP,
    "http_service.http_options.response": "pristine headers",
    "http_service.http_options.replay_cache": "path_prefix ttl_seconds type name allow_bypass",
    "http_service.checks": CHECK,
    "http_service.machine_checks": MACHINE_CHECK,
    "services": f"{SERVICE} protocol ports tcp_checks http_checks",
    "services.concurrency": "type soft_limit hard_limit",
    "services.ports": """
        port start_port end_port handlers force_https tls_options http_options
        proxy_proto_options
    """,
    "services.ports.tls_options": TLS,
    "services.ports.http_options": HTTP,
    "services.ports.proxy_proto_options": "version",
    "services.tcp_checks": "grace_period interval timeout",
    "services.http_checks": CHECK,
    "services.machine_checks": MACHINE_CHECK,
    "checks": f"{CHECK} type port processes command kind",
    "machine_checks": MACHINE_CHECK,
    "mounts": """
        source destination processes initial_size snapshot_retention scheduled_snapshots
        auto_extend_size_threshold auto_extend_size_increment auto_extend_size_limit
    """,
    "vm": VM,
    "statics": "guest_path url_prefix tigris_bucket index_document",
    "files": "guest_path local_path secret_name raw_value processes",
    "metrics": "port path https processes",
    "restart": "policy retries processes",
    "experimental": """
        cmd entrypoint exec machine_config attached auto_rollback enable_consul enable_etcd
        lazy_load_images
    """,
    "experimental.attached": "secrets",
    "experimental.attached.secrets": "export",
}
WHOLE = """
app = "whole"
primary_region = "fra"
kill_signal = "SIGTERM"
kill_timeout = "30s"
swap_size_mb = 512
console_command = "sh -l"
host_dedication_id = "h"
machine_config = '{"metadata": {"a": "b"}}'
container = "app"

[experimental]
cmd = ["a"]
entrypoint = "b"
exec = ["c"]
machine_config = "raw.json"
auto_rollback = true
enable_consul = true
enable_etcd = true
lazy_load_images = true
[experimental.attached.secrets.export]
URL = "${FLYCAST_URL}"

[build]
dockerfile = "Dockerfile.web"
ignorefile = ".ignore"
build-target = "final"
buildpacks = ["x"]
compression = "zstd"
compression_level = 3
[build.args]
A = 1
[build.settings]
pristine = true
[build.compose]
file = "compose.yml"

[deploy]
strategy = "rolling"
max_unavailable = 0.5
wait_timeout = "2m"
release_command = "migrate up"
release_command_timeout = "10m"
seed_command = "seed"
auto_rollback = false
drain_timeout = "30s"
[deploy.release_command_vm]
size = "shared-cpu-2x"
memory = "1gb"

[env]
A = "1"

[processes]
app = "serve"
worker = "work"

[http_service]
internal_port = 8080
force_https = true
auto_stop_machines = "suspend"
auto_start_machines = true
min_machines_running = 1
processes = ["app"]
[http_service.concurrency]
type = "requests"
soft_limit = 10
hard_limit = 20
[http_service.tls_options]
alpn = ["h2", "http/1.1"]
versions = ["TLSv1.2", "TLSv1.3"]
default_self_signed = true
[http_service.http_options]
compress = true
h2_backend = true
idle_timeout = 60
headers_read_timeout = 5
[http_service.http_options.response]
pristine = true
[http_service.http_options.response.headers]
Server = false
X-One = "1"
X-Two = ["1", "2"]
[[http_service.http_options.replay_cache]]
path_prefix = "/"
ttl_seconds = 10
type = "cookie"
name = "session"
allow_bypass = true
[[http_service.checks]]
grace_period = "5s"
interval = 15000
timeout = "2s"
method = "get"
path = "/up"
protocol = "https"
tls_skip_verify = true
tls_server_name = "x"
[http_service.checks.headers]
Host = "x"
[[http_service.machine_checks]]
command = ["curl"]
image = "curl"
entrypoint = ["sh"]
kill_signal = "SIGKILL"
kill_timeout = 5

[[services]]
protocol = "tcp"
internal_port = 5432
processes = ["worker"]
[[services.ports]]
start_port = 5432
handlers = ["pg_tls", "proxy_proto"]
[services.ports.proxy_proto_options]
version = "v2"
[[services.tcp_checks]]
interval = "10s"
[[services.http_checks]]
path = "/"
[[services.machine_checks]]
command = "true"

[checks.alive]
type = "http"
port = 8080
interval = "15s"
timeout = "10s"
grace_period = "1s"
processes = ["app"]

[[machine_checks]]
command = ["true"]

[[mounts]]
source = "data"
destination = "/data"
processes = ["worker"]
initial_size = "10gb"
snapshot_retention = 7
scheduled_snapshots = true
auto_extend_size_threshold = 80
auto_extend_size_increment = "1GB"
auto_extend_size_limit = "10GB"

[[vm]]
size = "performance-2x"
memory_mb = 4096
max_memory_mb = 8192
kernel_args = "quiet debug"
persist_rootfs = "restart"
processes = ["worker"]

[[statics]]
guest_path = "/app/public"
url_prefix = "/public"
tigris_bucket = "b"
index_document = "index.html"

[[files]]
guest_path = "/etc/x"
raw_value = "aGk="
processes = ["app"]

[[metrics]]
port = 9091
path = "/m"
https = true

[[restart]]
policy = "on-failure"
retries = 3
processes = ["worker"]
"""


def sections(record: type[model.Section], path: str = "") -> dict[str, type[model.Section]]:
    """Return every table of the file with the class that reads it."""
    found = {path: record}
    for name, field in record.model_fields.items():
        for inner in _records(field.annotation):
            found |= sections(inner, f"{path}.{field.alias or name}".lstrip("."))
    return found


def _records(annotation: Any) -> list[type[model.Section]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, model.Section) else []
    if get_origin(annotation) in (list, dict, Union) or get_args(annotation):
        return [one for each in get_args(annotation) for one in _records(each)]
    return []


READ = sections(model.Config)


@pytest.mark.parametrize("path", KEYS)
def test_every_key_is_read(path: str) -> None:
    fields = READ[path].model_fields
    assert {field.alias or name for name, field in fields.items()} == set(KEYS[path].split())


def test_no_section_is_left_out_of_the_table() -> None:
    same = {path for path in READ if path.startswith("services.ports.http_options.")}
    assert READ.keys() - same == KEYS.keys()


def test_a_file_with_everything_in_it_has_no_mistake_and_no_unknown_key(tmp_path) -> None:
    path = tmp_path / "fly.toml"
    path.write_text(WHOLE)
    config = files.load(path).checked()
    assert check.unknown_keys(config) == []
