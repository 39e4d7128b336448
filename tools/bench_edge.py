"""Area `edge`: what a request or a byte costs the edge, beside four others, one worker each.

CPU time is the proxies' own, of all their threads, from the kernel's books: requests a second
depend on whoever else is on the machine. Access logs are off; Godwit routes, keeps limits and
counts.
"""

import re
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools import bench_edge_view
from tools.bench import Row, paired, row
from tools.edge_peers import NAME, Server, all_of_them

_ROUNDS = 7
_SECONDS = 2
_TLS_SECONDS = 10
"""Longer, so that the client's own handshakes are few beside what it asks."""
_CONNECTIONS = 64
_BYTES = 512 << 20
_STREAMS, _STREAMED = 32, 20_000
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1_000.0}

_LESS_TUNED = frozenset({"caddy", "traefik"})
_OF_LESS_TUNED = 0.25
"""Of their CPU time for a small request; their other rows are there to be looked at."""

Figures = dict[str, float]
Measure = Callable[[Server], Figures]


def rows() -> list[Row]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as folder, all_of_them(Path(folder)) as servers:
        found: list[Row] = []
        for bench, (measure, bounds) in _BENCHES.items():
            able = [server for server in servers if server.takes_bytes or measure is not _raw]
            found += _beside(bench, measure, bounds, able)
    return [*found, *bench_edge_view.rows()]


def _beside(
    bench: str, measure: Measure, bounds: dict[str, tuple[float, float]], servers: list[Server]
) -> list[Row]:
    rounds: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for number in range(_ROUNDS + 1):
        # Each goes first as often as the others; the first round only warms up.
        turn = number % len(servers)
        for server in servers[turn:] + servers[:turn]:
            got = measure(server)
            if number:
                rounds[server.name].append(got)
    ours = rounds.pop("godwit")
    found = []
    for metric, (most, aimed) in bounds.items():
        unit = metric.rpartition(" ")[2]
        values = [got[metric] for got in ours]
        for peer, theirs in rounds.items():
            peers = [got[metric] for got in theirs]
            must, aim = (None, None) if peer in _LESS_TUNED else (most, aimed)
            if peer in _LESS_TUNED and (bench, metric) == ("small", _CPU):
                must = _OF_LESS_TUNED
            figures = row(f"edge.{bench}", metric, unit, values, peer, peers, must=must, aim=aim)
            found.append(paired(figures, values, peers))
    return found


def _wrk(server: Server, url: str, *headers: str, seconds: int = _SECONDS) -> Figures:
    argv = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}", "--latency", "-H", f"Host: {NAME}"]
    for header in headers:
        argv += ["-H", header]
    began = server.cpu_us()
    said = subprocess.run([*argv, url], check=True, capture_output=True, text=True).stdout
    used = server.cpu_us() - began
    requests = re.search(r"(\d+) requests in", said)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert requests is not None, said
    assert late is not None, said
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    return {
        "CPU per request, us": used / int(requests[1]),
        "p99, ms": float(late[1]) * _UNITS[late[2]],
    }


def _small(server: Server) -> Figures:
    return _wrk(server, f"http://{server.address}/small")


def _tls(server: Server) -> Figures:
    return _wrk(server, f"https://{server.address}/small", seconds=_TLS_SECONDS)


def _handshakes(server: Server) -> Figures:
    # wrk keeps no sessions: every connection shakes hands in full.
    return _wrk(server, f"https://{server.address}/small", "Connection: close")


def _large(server: Server) -> Figures:
    return _wrk(server, f"http://{server.address}/large")


def _http2(server: Server) -> Figures:
    argv = [
        "h2load", "-t1", "-c8", f"-m{_STREAMS}", f"-n{_STREAMED}",
        "--connect-to", f"{server.address}:443", f"https://{NAME}/small",
    ]  # fmt: skip
    began = server.cpu_us()
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    used = server.cpu_us() - began
    assert f"{_STREAMED} succeeded, 0 failed" in said, said
    return {"CPU per request, us": used / _STREAMED}


def _raw(server: Server) -> Figures:
    began = server.cpu_us()
    left, piece = _BYTES, bytearray(1 << 18)
    with socket.create_connection((server.address, 9), timeout=60) as client:
        client.sendall(b"%d\n" % _BYTES)
        while left > 0 and (count := client.recv_into(piece)):
            left -= count
    assert left == 0
    return {"CPU per MB, us": (server.cpu_us() - began) / (_BYTES >> 20)}


_CPU, _LATE = "CPU per request, us", "p99, ms"
_BENCHES: dict[str, tuple[Measure, dict[str, tuple[float, float]]]] = {
    "small": (_small, {_CPU: (1.2, 1.0), _LATE: (1.3, 1.0)}),
    "tls": (_tls, {_CPU: (1.2, 1.0), _LATE: (1.3, 1.0)}),
    "handshakes": (_handshakes, {_CPU: (1.2, 1.0)}),
    "http2": (_http2, {_CPU: (1.4, 1.0)}),
    "large": (_large, {_CPU: (1.2, 1.0)}),
    "raw": (_raw, {"CPU per MB, us": (1.1, 1.0)}),
}
"""What is measured, and what may not be exceeded and what is aimed at, of the peers' figures."""
