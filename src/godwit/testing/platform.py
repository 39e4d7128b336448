"""A whole Godwit that is up, beside a small world outside: for end-to-end tests and benches.

To be used in namespaces of its own (`tools/isolated.sh`): `world` adds a second namespace with an
HTTP server and a resolver, so that egress and recursion have somewhere to go.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from godwit.agent.vmm import running as vmms
from godwit.base import settings
from godwit.host import running

T = TypeVar("T")

GODWIT = str(Path(sys.executable).parent / "godwit")
WORLD_V4, HOST_V4 = "198.51.100.1", "198.51.100.2"
WORLD_V6, HOST_V6 = "2001:db8:1::1", "2001:db8:1::2"
ROOT = Path(__file__).resolve().parents[3]
ORGANIZATIONS = ("reed", "marsh")


def sh(*argv: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its output is in the error if it fails."""
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=timeout, **options
    )
    assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def eventually(attempt: Callable[[], T], deadline_s: float = 240.0, pause_s: float = 0.1) -> T:
    """Return the attempt's first true result; fail with its last one after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        result = attempt()
        if result or time.monotonic() > end:
            assert result, f"not within {deadline_s} s: {result!r}"
            return result
        time.sleep(pause_s)


@dataclass
class Platform:
    """A Godwit that is up, and how to use it as its users do."""

    environ: dict[str, str]
    data: Path
    run: Path
    apps: dict[str, str] = field(default_factory=dict)

    def godwit(
        self,
        *argv: str,
        expect: int = 0,
        timeout: float = 400,
        cwd: Path | None = None,
        stdin: str = "",
    ) -> str:
        """Run the CLI; return what it wrote to stdout (and stderr when it was to fail).

        Bytes that are not UTF-8 are surrogates (PEP 383), in what is read and written.
        """
        done = subprocess.run(
            [GODWIT, *argv],
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            env=self.environ,
            cwd=cwd,
            input=stdin,
        )
        assert done.returncode == expect, (
            f"godwit {' '.join(argv)}: exit {done.returncode}, expected {expect}\n"
            f"stdout: {done.stdout}\nstderr: {done.stderr}"
        )
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def json(self, *argv: str, **options: Any) -> Any:
        """Run a read command with --json and return the document."""
        return json.loads(self.godwit(*argv, "--json", **options))

    @property
    def settings(self) -> settings.Settings:
        """Return what it was told."""
        return settings.load(None, self.environ, {})

    @property
    def api(self) -> httpx.Client:
        """Return a client of the REST API with the operator's token."""
        token = (self.data / "keys" / "admin.token").read_text().strip()
        return httpx.Client(
            base_url=f"http://{self.settings.listen.api}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=90,
        )

    def get(self, app: str, path: str = "/", **options: Any) -> httpx.Response:
        """Ask an app through the edge."""
        headers = {"Host": f"{app}.godwit.localhost", **options.pop("headers", {})}
        port = self.settings.listen.edge.rpartition(":")[2]
        url = f"http://127.0.0.1:{port}{path}"
        return httpx.get(url, headers=headers, timeout=90, **options)

    def component(self, name: str) -> running.Process:
        """Return the running process of a component."""
        found = running.read(self.run / "pids" / f"{name}.json")
        assert found is not None, f"{name} does not run"
        return found

    def kill(self, name: str) -> running.Process:
        """Kill a component with SIGKILL and return the process it was."""
        process = self.component(name)
        process.signal(9)
        assert process.wait(60)
        return process

    def vmm_pid(self, machine_id: str) -> int:
        """Return the process of a machine's VMM, whichever VMM that is."""
        name = vmms.vm_name(machine_id).encode()
        (pid,) = (pid for pid in vmms.pids() if name in vmms.command_line(pid))
        return pid

    def machines(self, app: str) -> list[dict[str, Any]]:
        """Return an app's machines as the API shows them."""
        with self.api as api:
            answer = api.get(f"/v1/apps/{app}/machines")
            assert answer.status_code == 200, answer.text
            found: list[dict[str, Any]] = answer.json()
            return found

    def deployed(self, app: str) -> dict[str, Any]:
        """Return the app's one machine that a deploy made."""
        (found,) = (
            m for m in self.machines(app) if "fly_release_id" in m["config"].get("metadata", {})
        )
        return found

    def wait(self, app: str, machine: str, state: str) -> None:
        """Return once a machine is in a state; the API waits a minute at a time."""
        path = f"/v1/apps/{app}/machines/{machine}/wait"
        with self.api as api:
            eventually(
                lambda: api.get(path, params={"state": state, "timeout": 60}).status_code == 200
            )

    def exec(self, app: str, machine: str, *argv: str, timeout: int = 60) -> dict[str, Any]:
        """Run a command in a machine and return exit code and output."""
        with self.api as api:
            answer = api.post(
                f"/v1/apps/{app}/machines/{machine}/exec",
                json={"command": list(argv), "timeout": timeout},
            )
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found


WORLD_SERVER = f"""
import http.server, socket, threading
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("world saw " + self.client_address[0]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
threading.Thread(target=Server(("::", 80), Handler).serve_forever, daemon=True).start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("{WORLD_V4}", 53))
print("ready", flush=True)
while True:
    q, a = s.recvfrom(4096)
    end = 12
    while q[end]: end += q[end] + 1
    question = q[12:end + 5]; kind = question[-4:-2]
    answer = b""
    if kind == b"\\0\\1":
        answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton("{WORLD_V4}")
    s.sendto(q[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if answer else b"\\0\\0") + b"\\0\\0\\0\\0"
             + question + answer, a)
"""


def world_namespace() -> str:
    """Return the name of the network namespace that the world is in."""
    return f"world{os.getpid()}"


@contextlib.contextmanager
def world() -> Iterator[None]:
    """Make the world outside: one server on v4 and v6, and a resolver."""
    namespace = world_namespace()
    sh("ip", "netns", "add", namespace)
    inside = ("ip", "-n", namespace)
    sh(
        "ip",
        "link",
        "add",
        "uplink0",
        "type",
        "veth",
        "peer",
        "name",
        "world0",
        "netns",
        namespace,
    )
    sh("ip", "addr", "add", f"{HOST_V4}/24", "dev", "uplink0")
    sh("ip", "addr", "add", f"{HOST_V6}/64", "dev", "uplink0", "nodad")
    sh("ip", "link", "set", "uplink0", "up")
    sh(*inside, "addr", "add", f"{WORLD_V4}/24", "dev", "world0")
    sh(*inside, "addr", "add", f"{WORLD_V6}/64", "dev", "world0", "nodad")
    sh(*inside, "link", "set", "world0", "up")
    sh(*inside, "link", "set", "lo", "up")
    sh("ip", "route", "add", "default", "via", WORLD_V4)
    sh("ip", "-6", "route", "add", "default", "via", WORLD_V6)
    server = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", WORLD_SERVER],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield
    server.kill()
    server.wait()
    server.stdout.close()
    sh("ip", "netns", "del", namespace)


@dataclass(frozen=True)
class Traces:
    """What a platform could leave on a machine."""

    processes: frozenset[str]
    links: frozenset[str]
    mounts: frozenset[str]
    tables: str
    cgroups: frozenset[str]
    temporary: frozenset[str]

    def beside(self, other: "Traces") -> dict[str, Any]:
        """Return what is different, for people."""
        pairs = {name: (value, getattr(other, name)) for name, value in vars(self).items()}
        return {
            name: sorted(mine ^ theirs) if isinstance(mine, frozenset) else mine
            for name, (mine, theirs) in pairs.items()
            if mine != theirs
        }


def traces(instance: str, temporary: Path) -> Traces:
    """Look at what is there now.

    Args:
        instance: The platform's, and what is named after it.
        temporary: Where its programs put temporary files.
    """
    processes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, fields = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            # A server of the tests' own comes and goes as they want it to.
            if name != "postgres" and fields.split()[0] != "Z":
                processes.add(f"{folder.name} {(folder / 'cmdline').read_text()[:120]}")
    links = {row["ifname"] for row in json.loads(sh("ip", "-j", "link").stdout)}
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    cgroups = {str(p) for p in Path("/sys/fs/cgroup").glob(f"**/godwit/{instance}*")}
    return Traces(
        frozenset(processes),
        frozenset(links),
        frozenset(mounts),
        sh("nft", "list", "tables").stdout,
        frozenset(cgroups),
        frozenset(str(path) for path in temporary.rglob("*")),
    )


@contextlib.contextmanager
def platform(**variables: str) -> Iterator[Platform]:
    """Yield a Godwit that is up with two organizations; take it down and look for leaks.

    Args:
        variables: Further ones of its environment, `GODWIT_…` most of all.
    """
    # Not by the pid, which one in other namespaces may have as well.
    instance = f"e2e{secrets.token_hex(3)}"
    data = Path(tempfile.mkdtemp(prefix="godwit-e2e-", dir="/var/tmp"))
    run = Path(f"/run/{instance}")
    temporary = data / "tmp"
    temporary.mkdir()
    environ = {
        **os.environ,
        "GODWIT_INSTANCE": instance,
        "GODWIT_PATHS_DATA": str(data / "data"),
        "GODWIT_PATHS_RUN": str(run),
        "GODWIT_CONFIG_DIR": str(data / "config"),
        "GODWIT_HOST_DNS_UPSTREAMS": WORLD_V4,
        "GODWIT_HOST_MEMORY_MB": "8192",
        # Tests and benches ask more often than people; `test_control` shows the limits.
        "GODWIT_API_RATE_LIMITS": "false",
        "NO_COLOR": "1",
        # A folder of its own, in which at the end nothing may be left.
        "TMPDIR": str(temporary),
        **variables,
    }
    before = traces(instance, temporary)
    up = Platform(environ, data / "data", run)
    try:
        up.godwit("up", "-d", timeout=420)
        for organization in ORGANIZATIONS:
            up.godwit("orgs", "create", organization)
        yield up
    finally:
        if os.environ.get("GODWIT_TEST_KEEP"):
            shutil.copytree(
                data / "data" / "log", os.environ["GODWIT_TEST_KEEP"], dirs_exist_ok=True
            )
        up.godwit("down", timeout=260)
        after = traces(instance, temporary)
        shutil.rmtree(data)
    assert after == before, f"left behind: {after.beside(before)}"
    assert not run.exists()
