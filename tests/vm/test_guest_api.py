"""`/.fly/api` in real machines: cold, copied and resumed; a whole agent's end of it, and floods."""

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from godwit.agent import ports
from godwit.agent.guest_api.answers import Answers
from godwit.agent.guest_api.connections import AT_ONCE, Connections
from godwit.agent.machines import records
from godwit.agent.machines.driver import Driver
from godwit.base import clock, tasks
from godwit.base.principal import Principal
from godwit.testing import agents
from godwit.wire import guest_api, host_rpc
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.guest import make_image

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

SMALL = ports.Hardware.of(host_rpc.Resources(memory_mb=256))
_LARGE = 100_000


class Control:
    """Says back what it was asked; a body twice."""

    async def guest_request(
        self, request: guest_api.GuestRequest, timeout_s: float
    ) -> guest_api.GuestAnswer:
        del timeout_s
        said = {"asked": f"{request.method} {request.target}", "of": request.machine_id}
        return guest_api.answer(200, (), request.body * 2 or json.dumps(said).encode())


class Desk:
    """An agent's end: takes requests of a machine's own, with Connections before it."""

    def __init__(self, here: vm_lab.Host, owned: tasks.Tasks) -> None:
        self.ended: list[tuple[str, str]] = []

        async def suspend(who: Principal, body: dict[str, Any]) -> dict[str, Any]:
            self.ended.append((who.subject, body["machine_id"]))
            return {}

        answers = Answers({"suspend": suspend}, cast("Any", Control()))
        self.connections = Connections(here.vmm, answers, clock.SystemClock(), owned)

    def follow(self, machine: vm_lab.Machine, boot: str | None) -> None:
        offer = agents.offer(machine.id)
        record = records.from_offer(offer, machine.plan.slot, 0)
        self.connections.follow(cast("Driver", SimpleNamespace(machine=record)), boot)


@contextlib.asynccontextmanager
async def desk(here: vm_lab.Host) -> AsyncIterator[Desk]:
    async with tasks.Tasks("agent") as owned:
        yield Desk(here, owned)


def image_with_ask(folder: Path) -> Path:
    """Return the usual image with a program that talks to Unix sockets."""
    program = folder / "rootfs" / "bin" / "ask"
    program.parent.mkdir(parents=True)
    source = Path(__file__).with_name("ask.c")
    compiling = ["gcc", "-static", "-Os", "-o", program, source]
    subprocess.run(compiling, check=True, timeout=60)
    return make_image(folder)


def own(machine: vm_lab.Machine, verb: str) -> str:
    return f"/v1/apps/hello/machines/{machine.id}/{verb}"


async def asked(machine: vm_lab.Machine, method: str, path: str, **more: Any) -> str:
    script = f"printf '{method} {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | ask /.fly/api"
    answer = await machine.run(script, **more)
    assert answer.exit_code == 0, answer
    return answer.stdout


@lab.own_namespace
async def test_processes_talk_to_the_platform(tmp_path):
    async with vm_lab.host() as here, desk(here) as agent:
        machine = here.machine(5, image=image_with_ask(tmp_path))
        await machine.boot()
        agent.follow(machine, "first")
        for user in ("", "app"):
            said = await asked(machine, "GET", "/v1/x?y=1", user=user)
            assert said.startswith("HTTP/1.1 200 OK\r\n")
            assert json.loads(said.partition("\r\n\r\n")[2]) == {
                "asked": "GET /v1/x?y=1",
                "of": machine.id,
            }
        said = await asked(machine, "POST", own(machine, "suspend"))
        assert said.endswith('{"ok":true}')
        assert agent.ended == [(f"machine:{machine.id}", machine.id)]
        head = f"POST /x HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {_LARGE}\\r\\n\\r\\n"
        script = f"(printf '{head}'; head -c {_LARGE} /dev/zero) | ask /.fly/api | wc -c"
        answer = await machine.run(script)
        assert int(answer.stdout) > 2 * _LARGE, answer


@lab.own_namespace
async def test_floods_and_garbage_harm_nobody(tmp_path):
    async with vm_lab.host() as here, desk(here) as agent:
        machine = here.machine(5, image=image_with_ask(tmp_path))
        await machine.boot()
        agent.follow(machine, "first")
        script = (
            "for n in $(seq 30); do head -c 30000 /dev/urandom | ask /.fly/api >/dev/null & done;"
            " for n in $(seq 30); do printf 'GET /%s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' $n"
            " | ask /.fly/api >/tmp/$n & done; wait; cat /tmp/[0-9]* | busybox grep -c '200 OK'"
        )
        answer = await machine.run(script, timeout_s=240)
        assert answer.stdout.strip() == "30", answer
        held = f"for n in $(seq {AT_ONCE}); do echo x | ask /.fly/api hold & done; sleep 0.2"
        await machine.run(f"({held}) >/dev/null 2>&1")
        # Those who say no more are hung up on; then it is the next one's turn.
        assert "200 OK" in await asked(machine, "GET", "/after", timeout_s=240)
        status = await machine.session.status()
        assert status.phase == "running"


@lab.own_namespace
async def test_another_agent_goes_on_where_one_ended(tmp_path):
    async with vm_lab.host() as here, tasks.Tasks("test") as owned:
        machine = here.machine(5, image=image_with_ask(tmp_path))
        await machine.boot()
        async with desk(here) as former:
            former.follow(machine, "first")
            assert "200 OK" in await asked(machine, "GET", "/")
        waiting = owned.spawn(asked(machine, "GET", "/while-away"), name="waiting")
        async with desk(here) as agent:
            agent.follow(machine, "first")
            assert "/while-away" in await waiting


@lab.own_namespace
async def test_copies_and_resumed_machines_have_it(tmp_path):
    async with vm_lab.host() as here:
        copies = here.templates()
        await copies.make("org1", SMALL)
        here.vmm = here.another_vmm(copies)
        async with desk(here) as agent:
            machine = here.machine(5, image=image_with_ask(tmp_path))
            assert (await machine.boot()).start_kind == "warm"
            agent.follow(machine, "first")
            assert machine.id in await asked(machine, "GET", "/")
            agent.follow(machine, None)
            await here.vmm.suspend(machine.id, machine.plan.instance_id)
            await machine.close()
            await here.vmm.discard(machine.id, machine.plan.slot, keep="all")
            await here.vmm.resume(machine.plan)
            machine.session = await here.vmm.connect(machine.id)
            await machine.phase("running")
            agent.follow(machine, "second")
            assert machine.id in await asked(machine, "GET", "/")
