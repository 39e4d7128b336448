"""The control process itself: real bus, real database, real registry; only the VMs are simulated."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from godwit.base import processes, tasks
from godwit.base.settings import Listen, Paths, Settings
from godwit.bus import connection, facts, rpc
from godwit.control import registry_tokens
from godwit.host import components
from godwit.testing.hosts import SimulatedHost
from godwit.testing.loopback import free_port
from tests.host.conftest import Bus, until

pytestmark = pytest.mark.host


@dataclass
class Control:
    """The process, started and ended by the test."""

    settings: Settings
    data: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.settings.listen.api}"

    async def start(self) -> None:
        """Start it and wait for READY=1."""
        path = self.data / "settings.json"
        path.write_text(self.settings.model_dump_json())
        notified = self.data / "notify.sock"
        notified.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(notified))
            listening.setblocking(False)
            with (self.data / "control.log").open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "godwit.cmd.control", "--settings", str(path),
                    stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": str(notified)},
                )  # fmt: skip
            async with asyncio.timeout(120):
                said = await asyncio.get_running_loop().sock_recv(listening, 100)
        assert said == b"READY=1", self.log()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def client(self) -> httpx.AsyncClient:
        secret = (self.data / "keys" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)

    def log(self) -> str:
        return (self.data / "control.log").read_text()


@pytest.fixture
async def control(bus: Bus, tmp_path: Path) -> AsyncIterator[Control]:
    settings = Settings(
        paths=Paths(data=tmp_path, run=tmp_path / "run", cache=tmp_path / "cache"),
        listen=Listen(
            api=f"127.0.0.1:{free_port()}",
            bus=bus.url.removeprefix("nats://"),
            registry=f"127.0.0.1:{free_port()}",
        ),
    )
    made = Control(settings, tmp_path)
    yield made
    if made.process is not None and made.process.returncode is None:
        made.process.kill()
        await made.process.wait()


class BusFacts:
    """What a simulated host publishes to: the real stream."""

    def __init__(self, stream: facts.FactStream) -> None:
        self._stream = stream

    async def publish(self, fact: object) -> None:
        await self._stream.publish(fact)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def simulated_host(bus: Bus) -> AsyncIterator[SimulatedHost]:
    """Have a simulated host answer on the real bus with the host's own key."""
    host_id = bus.identity.host_id
    link = await connection.connect([bus.url], bus.keys.seed("host"), host_id)
    assert await link.wait_up(60)
    stream = facts.FactStream(link, "lcl")
    await stream.ensure()
    host = SimulatedHost(host_id, stream=BusFacts(stream))  # type: ignore[arg-type]

    def answering(verb: str) -> rpc.Handler:
        return lambda who, body: host.answer(verb, body, who)

    async def bid(request):  # type: ignore[no-untyped-def]
        return host.bid(request)

    async with tasks.Tasks("host") as owned:
        handlers = {verb: answering(verb) for verb in host._handlers()}
        await rpc.serve(link, owned, host_id, handlers)
        await rpc.serve_bids(link, owned, "lcl", bid)
        try:
            yield host
        finally:
            await link.close()


async def make_machine(client: httpx.AsyncClient, control: Control, app: str) -> str:
    """Push an empty image and run it; return the machine's id."""
    reference = f"{control.settings.listen.registry}/{app}:v1"
    answer = await client.post(f"/v1/apps/{app}/machines", json={"config": {"image": reference}})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def eventually(client: httpx.AsyncClient, path: str, state: str) -> dict:
    async with asyncio.timeout(60):
        while True:
            found = (await client.get(path)).json()
            if found.get("state") == state:
                return found
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def registry(control: Control) -> AsyncIterator[str]:
    """Run docker-registry as `godwit up` does; yield its address."""
    (control.data / "keys" / "registry.secret").write_text("0123456789abcdef")
    config = control.data / "registry.yml"
    config.write_text(components.registry_config(control.settings))
    with (control.data / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "docker-registry", "serve", str(config), stdout=log, stderr=log
        )
    address = control.settings.listen.registry
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as client:
            while True:
                assert process.returncode is None, (control.data / "registry.log").read_text()
                with contextlib.suppress(httpx.HTTPError):
                    await client.get(f"http://{address}/v2/")
                    break
                await asyncio.sleep(0.05)
        yield address
    finally:
        process.kill()
        await process.wait()


async def push(control: Control, app: str, secret: str) -> processes.Finished:
    """Push an image of one file with buildah, basic auth with an API token as password."""
    store = control.data / "buildah"
    flags = [
        "--storage-driver",
        "vfs",
        "--root",
        str(store / "root"),
        "--runroot",
        str(store / "run"),
    ]
    (control.data / "hello.txt").write_text("hello")
    made = await processes.run(["buildah", *flags, "from", "scratch"])
    name = made.stdout.decode().strip()
    await processes.run(["buildah", *flags, "copy", name, str(control.data / "hello.txt"), "/"])
    image = (await processes.run(["buildah", *flags, "commit", "--quiet", name])).stdout
    target = f"docker://{control.settings.listen.registry}/{app}:v1"
    return await processes.run(
        ["buildah", *flags, "push", "--tls-verify=false", f"--creds=x:{secret}",
         image.decode().strip(), target],
        check=False, timeout_s=60,
    )  # fmt: skip


async def see_leases_and_limits(client: httpx.AsyncClient, one: str) -> None:
    """Hold a machine, be refused without its nonce, and be told to ask less often."""
    held = await client.post(f"{one}/lease", params={"ttl": 60})
    assert held.status_code == 201, held.text
    nonce = {"fly-machine-lease-nonce": held.json()["data"]["nonce"]}
    other = await client.post(f"{one}/lease")
    assert (other.status_code, other.json()["data"]["owner"][:10]) == (409, "token:tok_")
    assert "nonce" not in other.json()["data"]
    assert (await client.post(f"{one}/cordon")).status_code == 409
    for _ in range(200):
        answer = await client.post(f"{one}/cordon", headers=nonce)
        if answer.status_code != 200:
            break
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert (await client.delete(f"/x{one}/lease")).status_code == 204
    assert (await client.post(f"{one}/uncordon")).status_code == 200


@pytest.mark.timeout(400)
async def test_from_push_to_machine_with_every_real_part(bus: Bus, control: Control) -> None:
    await control.start()
    secret = (control.data / "keys" / "admin.token").read_text().strip()
    async with registry(control), simulated_host(bus) as host, control.client() as client:
        for org, app in (("personal", "shop"), ("rival", "theirs")):
            await client.post("/x/v1/orgs", json={"slug": org})
            made = await client.post("/v1/apps", json={"name": app, "org_slug": org})
            assert made.status_code == 201, made.text
        pushed = await push(control, "shop", secret)
        assert pushed.exit_code == 0, pushed.stderr
        tenant = await client.post("/x/v1/tokens", json={"name": "t", "org_slug": "rival"})
        refused = await push(control, "shop", tenant.json()["token"])
        assert refused.exit_code != 0
        assert (await push(control, "theirs", tenant.json()["token"])).exit_code == 0
        machine_id = await make_machine(client, control, "shop")
        one = f"/v1/apps/shop/machines/{machine_id}"
        waited = await client.get(f"{one}/wait", params={"timeout": 60})
        assert waited.json()["state"] == "started"
        offer = host.machines[machine_id].offer
        assert offer.image.digest.startswith("sha256:")
        key = registry_tokens.ensure(control.data / "keys").key.public_key()
        claims = registry_tokens.claims(str(offer.pull_token), key)
        assert claims["access"] == [{"type": "repository", "name": "shop", "actions": ["pull"]}]
        await see_leases_and_limits(client, one)
        await host.exit(machine_id, 3)
        host.away = True
        found = await eventually(client, one, "stopped")
        assert found["host_status"] == "unreachable"
        host.away = False
        foreign = await client.post(
            "/v1/apps/shop/machines",
            json={"config": {"image": f"{control.settings.listen.registry}/theirs:v1"}},
        )
        assert foreign.status_code == 403
        # Room is counted by the registry's own disk, and shown.
        org = (await client.get("/x/v1/orgs/personal")).json()
        assert org["disk"]["registry_bytes"] > 0
        missing = await client.post(
            "/v1/apps/shop/machines",
            json={"config": {"image": f"{control.settings.listen.registry}/shop:v9"}},
        )
        assert missing.status_code == 400
        assert "MANIFEST_UNKNOWN" in missing.json()["error"]
    assert await control.end() == 0


@pytest.mark.timeout(400)
async def test_it_starts_and_reads_without_a_bus_and_catches_up(
    bus: Bus, control: Control
) -> None:
    await bus.kill()
    await control.start()
    async with control.client() as client:
        made = await client.post("/v1/apps", json={"name": "shop", "org_slug": "personal"})
        assert made.status_code == 201
        assert (await client.get("/v1/apps/shop")).status_code == 200
        # The registry does not run either; other loopback ports are refused as such.
        config = {"image": f"{control.settings.listen.registry}/shop:v1"}
        answer = await client.post("/v1/apps/shop/machines", json={"config": config})
        assert answer.status_code == 503
        await bus.start()
        reader = await connection.connect([bus.url], bus.keys.seed("control"), "control")
        stream = facts.FactStream(reader, "lcl")
        async with asyncio.timeout(60):
            async for fact in stream.watch(["app"]):
                assert fact.kind == "app"
                if fact.app == "shop":
                    break
        await reader.close()
        assert fact.hostnames == ("shop.godwit.localhost",)


@pytest.mark.timeout(400)
async def test_killed_at_any_moment_it_comes_back_with_everything(
    bus: Bus, control: Control
) -> None:
    await control.start()
    async with control.client() as client:
        for number in range(5):
            body = {"name": f"app-{number}", "org_slug": "personal"}
            assert (await client.post("/v1/apps", json=body)).status_code == 201
    await control.end(signal.SIGKILL)
    uploads = control.data / "control" / "uploads"
    uploads.mkdir(exist_ok=True)
    (uploads / "cut-off.tar").write_bytes(b"half a context")
    await control.start()
    assert list(uploads.iterdir()) == []
    async with control.client() as client:
        found = (await client.get("/v1/apps?org_slug=personal")).json()
        assert found["total_apps"] == 5


@pytest.mark.timeout(400)
async def test_it_ends_soon_although_a_client_waits(bus: Bus, control: Control) -> None:
    await control.start()
    async with registry(control), simulated_host(bus) as host, control.client() as client:
        await client.post("/v1/apps", json={"name": "shop", "org_slug": "personal"})
        secret = (control.data / "keys" / "admin.token").read_text().strip()
        assert (await push(control, "shop", secret)).exit_code == 0
        machine_id = await make_machine(client, control, "shop")
        async with tasks.Tasks("test") as owned:
            wait = f"/v1/apps/shop/machines/{machine_id}/wait"
            asked = owned.spawn(
                client.get(wait, params={"state": "destroyed", "timeout": 60}, timeout=70),
                name="wait",
            )
            await until(
                lambda: any("destroyed" in body.get("states", ()) for _, body in host.asked)
            )
            began = time.monotonic()
            assert await control.end() == 0
            # The client would have waited for a minute.
            assert time.monotonic() - began < 30
            answer = await asked
            assert (answer.status_code, "ask again" in answer.text) == (503, True)
            assert "Traceback" not in control.log()


@pytest.mark.timeout(400)
async def test_a_port_in_use_is_told_in_a_sentence(bus: Bus, control: Control) -> None:
    host, _, port = control.settings.listen.api.rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        path = control.data / "settings.json"
        path.write_text(control.settings.model_dump_json())
        ended = await processes.run(
            [sys.executable, "-m", "godwit.cmd.control", "--settings", str(path)],
            check=False,
            timeout_s=60,
        )
    assert ended.exit_code == 1
    assert f"the API cannot listen on {control.settings.listen.api}" in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()
