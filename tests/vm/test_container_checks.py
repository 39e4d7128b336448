"""Checks of containers over HTTPS: a real server in the guest, TLS by the host, init that counts."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from godwit.agent import container_probes, ports
from godwit.agent.machines.driver import Driver
from godwit.base import clock, tasks
from godwit.testing.registry import make_tls
from godwit.wire import guest_containers
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.guest import make_image
from tests.vm.test_containers import FOREVER, after, container, of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

PORT = 8443
WELL, ILL = (
    f"printf 'HTTP/1.0 {status}\\r\\n\\r\\nsays' >/tmp/new; busybox mv /tmp/new /tmp/up"
    for status in ("200 OK", "503 No")
)
# Listens where nobody but the machine itself gets to.
SERVE = (
    f"openssl s_server -accept 127.0.0.1:{PORT} -cert /srv/cert -key /srv/key -HTTP -quiet"
    " </dev/null >/dev/null 2>&1"
)


def with_openssl(here: vm_lab.Host) -> Path:
    """Return an image that has a server for TLS."""
    folder = here.places.store / "openssl"
    folder.mkdir(parents=True)
    program = Path(shutil.which("openssl") or "/usr/bin/openssl")
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    needed = [word for word in listed.split() if word.startswith("/")]
    for path in (*map(Path, needed), program):
        target = folder / "rootfs" / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(program, folder / "rootfs/usr/bin/openssl")
    tls = make_tls(folder / "tls", "127.0.0.1")
    return make_image(
        folder, {"srv/cert": tls.certificate.read_text(), "srv/key": tls.key.read_text()}
    )


class Agent:
    """What an agent does for the checks of one machine, without the agent."""

    def __init__(self, machine: vm_lab.Machine, config: dict[str, object]) -> None:
        self.machine = self
        self.machine_id = machine.id
        self.config = config
        self.about: dict[str, str] = {}
        self.seen: tuple[guest_containers.Standing, ...] = ()
        self._vm = machine
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def _session(self, driver: Driver) -> AsyncIterator[ports.ShimSession]:
        del driver
        session = await self._vm.host.vmm.connect(self.machine_id)
        assert session is not None
        try:
            yield session
        finally:
            await session.close()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator["Agent"]:
        async with tasks.Tasks("agent") as owned:
            probes = container_probes.ContainerProbes(self._session, clock.SystemClock(), owned)
            probes.follow(cast("Driver", self), "boot", ())
            owned.spawn(self._watch(probes), name="watch")
            yield self

    async def _watch(self, probes: container_probes.ContainerProbes) -> None:
        async with self._session(cast("Driver", self)) as session:
            async for status in session.changes():
                self.seen = status.containers
                probes.hear(self.machine_id, status.containers)
                self._changed.set()

    async def becomes(self, name: str, status: str, run: int = 1) -> str:
        """Return what was said once the check of a run of a container is like that."""
        async with asyncio.timeout(vm_lab.BOOT_S):
            while True:
                for one in self.seen:
                    found = [each for each in one.checks or () if each.status == status]
                    if (one.name, one.run) == (name, run) and found:
                        return found[0].output
                await self._changed.wait()
                self._changed.clear()


def asked_by_host(**more: object) -> dict[str, object]:
    usual = {"interval_s": 1, "timeout_s": 60, "grace_s": 0}
    thresholds = {"success_threshold": 1, "failure_threshold": 1}
    check = guest_containers.HealthCheck(
        name="tls", question=guest_containers.HostQuestion(), **{**usual, **thresholds, **more}
    )
    return {"healthchecks": (check,)}


def config(**more: object) -> dict[str, object]:
    http = {"port": PORT, "scheme": "https", "path": "/tmp/up", "tls_skip_verify": True}
    check = {"name": "tls", "interval": 1, "timeout": 60, "http": {**http, **more}}
    return {"containers": [{"name": "web", "healthchecks": [check]}]}


@lab.own_namespace
async def test_a_server_for_tls_alone_is_found_well_and_ill_and_stopped():
    async with vm_lab.host() as here:
        web = container(
            "web",
            f"cd /; {WELL}; trap 'exit 1' TERM; {SERVE} & echo up; {FOREVER}",
            restart="on-failure",
            max_retries=5,
            stop_signal="SIGTERM",
            **asked_by_host(grace_s=3600),
        )
        late = container("late", f"echo late; {FOREVER}", **after("web", "healthy"))
        machine = of(here.machine(5, image=with_openssl(here)), web, late)
        copies = here.templates()
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            async with Agent(machine, config()).watching() as agent:
                assert await agent.becomes("web", "passing") == "HTTP 200: says"
                await machine.says("late | late")
            if kind == "cold":
                await here.start_warm(machine, copies)
        await copies.close()


@lab.own_namespace
async def test_answers_go_on_with_another_agent_and_after_a_suspend():
    async with vm_lab.host() as here:
        web = container(
            "web",
            f"cd /; {WELL}; trap 'exit 1' TERM; {SERVE} & echo up; {FOREVER}",
            restart="on-failure",
            max_retries=5,
            stop_signal="SIGTERM",
            # Longer than a server takes to listen on the slowest machine.
            **asked_by_host(stops=True, grace_s=30),
        )
        machine = of(here.machine(5, image=with_openssl(here)), web)
        await machine.boot()
        async with Agent(machine, config()).watching() as agent:
            await agent.becomes("web", "passing")
        async with Agent(machine, config()).watching() as agent:
            await agent.becomes("web", "passing")
        await machine.close()
        await here.vmm.suspend(machine.id, machine.plan.instance_id)
        await here.vmm.discard(machine.id, machine.plan.slot, keep="all")
        await here.vmm.resume(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        await machine.phase("running")
        async with Agent(machine, config()).watching() as agent:
            await agent.becomes("web", "passing")
            assert (await machine.run(ILL, container="web")).exit_code == 0
            await machine.says("godwit-init: check tls of container web fails, it is stopped")
            await agent.becomes("web", "passing", run=2)
        await machine.session.stop("SIGKILL", 30_000)
        await machine.ended()


@lab.own_namespace
async def test_a_certificate_that_nobody_vouches_for_is_not_taken():
    async with vm_lab.host() as here:
        web = container("web", f"cd /; {WELL}; {SERVE} & {FOREVER}", **asked_by_host())
        machine = of(here.machine(5, image=with_openssl(here)), web)
        await machine.boot()
        given = config(tls_skip_verify=False, tls_server_name="a.example")
        async with Agent(machine, given).watching() as agent:
            said = await agent.becomes("web", "critical")
            while "certificate" not in said:
                # The server did not listen yet.
                found = await container_ask(agent, given)
                said = found.output
            assert said.startswith("its certificate is not good: "), said


async def container_ask(agent: Agent, given: dict[str, object]) -> container_probes.probes.Result:
    (check,) = container_probes.of_containers(given)
    assert check.asked is not None
    async with agent._session(cast("Driver", agent)) as session:
        return await container_probes.ask(session, check.asked)
