"""What a whole agent does for the inside of real machines: readiness of containers, tokens."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from godwit.agent import ports
from godwit.base import errors
from godwit.testing import agents
from godwit.wire import guest_api
from tests.host import network_lab as lab
from tests.vm.test_agent import Life, M, host, life
from tests.vm.test_agent_suspend import said

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

FOREVER = "while :; do sleep 0.1; done"
WITHIN_S = 240
SERVICES = [{"protocol": "tcp", "internal_port": 8080}]


class Control:
    """Gives machines tokens, one after the other."""

    def __init__(self) -> None:
        self.given = 0

    async def guest_request(
        self, request: guest_api.GuestRequest, timeout_s: float
    ) -> guest_api.GuestAnswer:
        del timeout_s
        assert (request.method, request.target) == ("POST", "/v1/tokens/oidc")
        self.given += 1
        return guest_api.answer(200, (), f"token {self.given}\n".encode())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await condition():
            await asyncio.sleep(0.05)


async def inside(agent: Life, script: str, container: str) -> None:
    """Run a script in a container; a channel that is being opened again is waited for."""
    asked = {"machine_id": M, "command": ["sh", "-c", script], "timeout_s": 120}

    async def done() -> bool:
        try:
            answer = await agent.call("machine.exec", container=container, **asked)
        except errors.Failure:
            return False
        return bool(answer["exit_code"] == 0)

    await until(done)


@lab.own_namespace
async def test_a_machine_of_containers_has_traffic_while_all_are_ready() -> None:
    async with host() as here:
        ready = {
            "name": "up",
            "kind": "readiness",
            "interval": 1,
            "timeout": 60,
            "failure_threshold": 1,
            "exec": {"command": ["ls", "/tmp/ready"]},
        }
        alive = {**ready, "name": "alive", "kind": "liveness", "exec": {"command": ["false"]}}
        names = ("web", "cache")
        containers = [
            {"name": name, "image": "a", "exec": ["sh", "-c", FOREVER], "healthchecks": checks}
            for name, checks in zip(names, ([ready, alive], [ready]), strict=True)
        ]
        config = {"services": SERVICES, "containers": containers}
        ref = agents.image(f"sha256:{'a' * 64}")

        def passing(agent: Life) -> bool:
            return agent.app.checks.passing(M, config) == {0: True}

        async def statuses(agent: Life, **wanted: str) -> bool:
            seen = {one["name"]: one["status"] for one in (await agent.view())["checks"]}
            return seen == {f"{name}/up": status for name, status in wanted.items()}

        async with life(here) as first:
            await first.create(config=config, image=ref, container_images=(ref, ref))
            await first.reach("started")
            assert not passing(first)
            await inside(first, "touch /tmp/ready", "web")
            await until(lambda: statuses(first, web="passing", cache="critical"))
            assert not passing(first)
            await inside(first, "touch /tmp/ready", "cache")
            await until(lambda: statuses(first, web="passing", cache="passing"))
            assert passing(first)
        async with life(here) as second:
            assert passing(second), "its traffic goes on while another agent begins"
            await until(lambda: statuses(second, web="passing", cache="passing"))
            await inside(second, "busybox rm /tmp/ready", "web")
            await until(lambda: statuses(second, web="critical", cache="passing"))
            assert not passing(second)


@lab.own_namespace
async def test_a_machine_that_takes_an_aws_role_finds_its_token_and_a_fresh_one_after_a_resume():
    async with host() as here, life(here) as agent:
        control = Control()
        agent.app.ask_control(cast("ports.Control", control))
        script = f"cat $AWS_WEB_IDENTITY_TOKEN_FILE; echo $AWS_ROLE_SESSION_NAME; {FOREVER}"
        await agent.create(script, config={"env": {"AWS_ROLE_ARN": "arn:aws:iam::1:role/app"}})
        await agent.reach("started")
        lines = await agent.lines(f"hello-{M}")
        assert any(line.startswith("token ") for line in lines), lines

        async def token() -> str:
            try:
                return await said(agent, "cat /.fly/oidc/token")
            except (errors.Failure, AssertionError):
                return ""

        async def renewed(since: int) -> bool:
            given = await token()
            return bool(given) and int(given.split()[1]) > since

        # The first is of the start; what comes then is put in while it runs.
        await until(lambda: renewed(1))
        before = control.given
        await agent.call("machine.suspend", machine_id=M)
        await agent.now("suspended")
        await agent.call("machine.start", machine_id=M)
        await agent.now("started")
        await until(lambda: renewed(before))
