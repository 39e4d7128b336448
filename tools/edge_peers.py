"""The servers that the edge is measured among: itself and four others, before the same app.

Each proxies with one worker, those of Go on one core at a time. The app is an nginx of its own for
HTTP, and for bytes a socket that sends as many as it is asked for. Used by `bench_edge`.
"""

import contextlib
import datetime as dt
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.host import rust_components as parts

from godwit.control import edge_authority
from godwit.host import edge_keys
from godwit.wire import components, facts

NAME = "hello.godwit.localhost"
APP = "127.18.0.2"
APP_PORT, BYTES_PORT = 9000, 9001
LARGE = 1 << 20
_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Server:
    """A proxy that runs.

    Attributes:
        address: Where it listens: ports 80 and 443 as on a server, 9 for bytes.
        takes_bytes: It proxies what is no HTTP.
    """

    name: str
    address: str
    pids: tuple[int, ...]
    takes_bytes: bool = True

    def cpu_us(self) -> float:
        """Return what all its threads have used."""
        tasks = [
            task for pid in self.pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
        ]
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1_000


_NGINX = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
"""
_NGINX_APP = """\
http {{
    access_log off;
    keepalive_requests 10000000;
    server {{
        listen {app}:{port} backlog=4096;
        location = /small {{ return 200 "hello, world\\n"; }}
        location = /large {{ root {folder}; }}
    }}
}}
"""
_NGINX_PROXY = """\
http {{
    access_log off;
    keepalive_requests 10000000;
    proxy_temp_path {folder}/proxy;
    client_body_temp_path {folder}/body;
    upstream app {{ server {app}:{port}; keepalive 128; keepalive_requests 10000000; }}
    server {{
        listen {address}:80 backlog=4096;
        listen {address}:443 ssl http2 backlog=4096;
        http2_max_requests 10000000;
        ssl_certificate {folder}/chain.pem;
        ssl_certificate_key {folder}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
stream {{ server {{ listen {address}:9; proxy_pass {app}:{bytes}; }} }}
"""
_HAPROXY = """\
global
    nbthread 1
    maxconn 8000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend plain
    bind {address}:80
    default_backend app
frontend secure
    bind {address}:443 ssl crt {folder}/both.pem alpn h2,http/1.1
    default_backend app
backend app
    option forwardfor
    http-reuse always
    server app {app}:{port}
listen bytes
    mode tcp
    bind {address}:9
    server app {app}:{bytes}
"""
_CADDY = """\
{{
    admin off
    auto_https off
    persist_config off
    default_sni {name}
    fallback_sni {name}
}}
http://{name} {{
    bind {address}
    reverse_proxy {app}:{port}
}}
https://{name} {{
    bind {address}
    tls {folder}/chain.pem {folder}/key.pem
    reverse_proxy {app}:{port}
}}
"""
_TRAEFIK = """\
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
entryPoints:
  plain: {{address: "{address}:80"}}
  secure: {{address: "{address}:443"}}
providers: {{file: {{filename: {folder}/routes.yaml}}}}
"""
_TRAEFIK_ROUTES = """\
http:
  routers:
    plain: {{rule: "Host(`{name}`)", entryPoints: [plain], service: app}}
    secure: {{rule: "Host(`{name}`)", entryPoints: [secure], service: app, tls: {{}}}}
  services:
    app: {{loadBalancer: {{servers: [{{url: "http://{app}:{port}"}}]}}}}
tls:
  certificates: [{{certFile: {folder}/chain.pem, keyFile: {folder}/key.pem}}]
"""
_OF_GO = Path(__file__).parents[1] / "build" / "peers" / "bin"
"""Where `tools/setup.sh peers` puts what Debian has not."""


@contextlib.contextmanager
def all_of_them(folder: Path) -> Iterator[list[Server]]:
    """Give the five, each of which answers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_app(folder / "app"))
        stack.enter_context(_bytes())
        servers = [
            stack.enter_context(_godwit(folder / "godwit", "127.30.0.1")),
            stack.enter_context(_nginx(folder / "nginx", "127.30.0.2")),
            stack.enter_context(_haproxy(folder / "haproxy", "127.30.0.3")),
            stack.enter_context(_caddy(folder / "caddy", "127.30.0.4")),
            stack.enter_context(_traefik(folder / "traefik", "127.30.0.5")),
        ]
        for server in servers:
            for port in (80, 443, 9) if server.takes_bytes else (80, 443):
                _until_listening(server.address, port)
        yield servers


@contextlib.contextmanager
def _run(*argv: str, env: dict[str, str] | None = None) -> Iterator[int]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, stdout=quiet, stderr=quiet, env=os.environ | (env or {}))
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=_DEADLINE_S)


@contextlib.contextmanager
def _app(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o755)
    (folder / "large").write_bytes(b"x" * LARGE)
    folder.parent.chmod(0o755)
    told = (_NGINX + _NGINX_APP).format(folder=folder, app=APP, port=APP_PORT)
    (folder / "nginx.conf").write_text(told)
    with _run("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)):
        _until_listening(APP, APP_PORT)
        yield


@contextlib.contextmanager
def _bytes() -> Iterator[None]:
    """Be an app that sends as many bytes as its client asks for in a line."""
    piece = bytes(1 << 18)

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            left = int(client.makefile("rb").readline() or 0)
            while left > 0:
                client.sendall(piece[: min(left, len(piece))])
                left -= len(piece)

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server((APP, BYTES_PORT)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _nginx(folder: Path, address: str) -> Iterator[Server]:
    folder.mkdir(mode=0o755)
    _certificate(folder)
    told = (_NGINX + _NGINX_PROXY).format(
        folder=folder, app=APP, port=APP_PORT, bytes=BYTES_PORT, address=address
    )
    (folder / "nginx.conf").write_text(told)
    with _run("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)) as master:
        _until_listening(address, 80)
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        yield Server("nginx", address, (master, *map(int, children)))


@contextlib.contextmanager
def _haproxy(folder: Path, address: str) -> Iterator[Server]:
    folder.mkdir()
    _certificate(folder)
    told = _HAPROXY.format(
        folder=folder, app=APP, port=APP_PORT, bytes=BYTES_PORT, address=address
    )
    (folder / "haproxy.cfg").write_text(told)
    with _run("haproxy", "-db", "-f", str(folder / "haproxy.cfg")) as pid:
        yield Server("haproxy", address, (pid,))


@contextlib.contextmanager
def _of_go(
    name: str, address: str, folder: Path, told: dict[str, str], *argv: str
) -> Iterator[Server]:
    """Run a server that is written in Go; the first of the files it is told leads to the rest."""
    program = _OF_GO / name
    assert program.exists(), f"{program} is missing: tools/setup.sh peers"
    folder.mkdir()
    _certificate(folder)
    for file, text in told.items():
        filled = text.format(folder=folder, name=NAME, address=address, app=APP, port=APP_PORT)
        (folder / file).write_text(filled)
    env = {"GOMAXPROCS": "1", "HOME": str(folder)}
    with _run(str(program), *argv, str(folder / next(iter(told))), env=env) as pid:
        yield Server(name, address, (pid,), takes_bytes=False)


def _caddy(folder: Path, address: str) -> contextlib.AbstractContextManager[Server]:
    return _of_go("caddy", address, folder, {"Caddyfile": _CADDY}, "run", "--config")


def _traefik(folder: Path, address: str) -> contextlib.AbstractContextManager[Server]:
    told = {"traefik.yaml": _TRAEFIK, "routes.yaml": _TRAEFIK_ROUTES}
    return _of_go("traefik", address, folder, told, "--configFile")


@contextlib.contextmanager
def _godwit(folder: Path, address: str) -> Iterator[Server]:
    """Run an edge that knows its app from its view; agent and bus are away."""
    (folder / "keys").mkdir(parents=True)
    edge_keys.ensure_here(folder, parts.HOST, time.time_ns() // 1_000_000)
    view = folder / "view.json"
    parts.keep_view(view, parts.app("hello", addresses=(address,)), _machine())
    config = components.EdgeConfig.model_validate(
        {
            "host_id": parts.HOST,
            "region": "lcl",
            "apps_domain": "godwit.localhost",
            "listeners": [],
            "addresses": [address],
            "status_address": "127.0.0.1:8090",
            "agent_socket": str(folder / "none.sock"),
            "bus": {"servers": ["nats://127.0.0.1:1"], "seed_file": str(folder / "none")},
            "view_file": str(view),
            "workers": 1,
            "tls": edge_keys.tls(folder),
        }
    )
    file = folder / "edge.json"
    file.write_text(config.model_dump_json())
    with _run(str(parts.program("godwit-edge")), "--config", str(file)) as pid:
        yield Server("godwit", address, (pid,))


def _machine() -> facts.MachineFact:
    requests = {"internal_port": APP_PORT, "concurrency": "requests", "soft_limit": 1_000}
    ports = ((80, ("http",)), (443, ("tls", "http")))
    services = [
        {**requests, "ports": [{"start_port": port, "end_port": port, "handlers": handlers}]}
        for port, handlers in ports
    ]
    raw = {"internal_port": BYTES_PORT, "ports": [{"start_port": 9, "end_port": 9}]}
    return parts.machine("m1", APP, APP_PORT, services=[*services, raw])


def _certificate(folder: Path) -> None:
    """Write what the peers show: as long a chain of the same kind of key as Godwit's."""
    (folder / "keys").mkdir()
    now_ms = time.time_ns() // 1_000_000
    edge_keys.ensure_here(folder, parts.HOST, now_ms)
    issuer_key = edge_authority.load_key(folder / "keys" / "edge.key")
    chain = (folder / "keys" / "edge.crt").read_text()
    issuer = x509.load_pem_x509_certificate(chain.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    shown = leaf.public_bytes(serialization.Encoding.PEM).decode() + chain
    (folder / "chain.pem").write_text(shown)
    (folder / "key.pem").write_text(edge_authority.private_pem(key))
    (folder / "both.pem").write_text(shown + edge_authority.private_pem(key))


def _until_listening(address: str, port: int) -> None:
    ends = time.monotonic() + _DEADLINE_S
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < ends, f"nobody listens on {address}:{port}"
            time.sleep(0.05)
        else:
            return
