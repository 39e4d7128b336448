"""Processes, leases and metadata of a real machine, across an agent's restart."""

import asyncio
import json
from typing import Any

import pytest

from godwit.base import errors, principal
from tests.host import network_lab as lab
from tests.vm.test_agent import Life, M, host, life

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

USER = principal.Principal(
    subject="user:a@example.com", org_ids=frozenset({"org_a"}), scopes=principal.ALL_SCOPES
)
SERVE = "echo ready; exec busybox nc -ll -p 8080 -e /bin/id"


async def ask(agent: Life, verb: str, **body: Any) -> dict[str, Any]:
    """Ask as a user does."""
    given = json.loads(json.dumps({"machine_id": M, **body}))
    answer = await agent.app.handlers()[verb](USER, given)
    return answer if isinstance(answer, dict) else answer.model_dump(mode="json")


async def main_process(agent: Life) -> dict[str, Any]:
    """Return the machine's own process, once it listens."""
    async with asyncio.timeout(240):
        while True:
            for process in (await ask(agent, "machine.ps"))["processes"]:
                if process["listen_sockets"]:
                    return dict(process)
            await asyncio.sleep(0.2)


@lab.own_namespace
async def test_processes_a_lease_and_metadata_across_an_agents_restart() -> None:
    async with host() as here:
        async with life(here) as first:
            view = await first.create(SERVE, config={"metadata": {"fly_process_group": "web"}})
            await first.reach("started")
            process = await main_process(first)
            assert process["command"] == "busybox nc -ll -p 8080 -e /bin/id"
            (socket,) = process["listen_sockets"]
            assert socket["proto"] == "tcp"
            assert socket["address"].endswith(":8080")
            assert process["rss"] > 0
            memory = await ask(first, "machine.memory.get")
            assert 0 < memory["available_mb"] < memory["limit_mb"] == 192
            held = (await ask(first, "machine.lease.acquire", ttl_s=280))["lease"]
            await ask(first, "machine.metadata.patch", metadata={"written": "yes"})
        async with life(here) as second:
            with pytest.raises(errors.Failure) as caught:
                await ask(second, "machine.exec", command=["true"], timeout_s=120)
            assert caught.value.code == "conflict"
            told = await ask(second, "machine.metadata.get")
            assert told["metadata"] == {"fly_process_group": "web", "written": "yes"}
            assert told["version"] == view["instance_id"]
            nonce = held["nonce"]
            said = await ask(
                second, "machine.exec", command=["echo", "mine"], timeout_s=120, nonce=nonce
            )
            assert said["stdout"] == "mine\n"
            assert (await main_process(second))["pid"] == process["pid"]
            await ask(second, "machine.stop", nonce=nonce)
            await second.now("stopped")


@lab.own_namespace
async def test_commands_and_signals_keep_their_deadlines_while_the_guest_floods() -> None:
    script = "trap 'echo heard; exit 3' USR1; while :; do yes flood | head -c 1000000; done"
    async with host() as here, life(here) as agent:
        await agent.create(script, config={"restart": {"policy": "no"}})
        await agent.reach("started")
        said = await ask(agent, "machine.exec", command=["echo", "alive"], timeout_s=120)
        assert said["stdout"] == "alive\n"
        for command in (["sleep", "100"], ["yes"]):
            with pytest.raises(errors.Failure) as caught:
                async with asyncio.timeout(120):
                    await ask(agent, "machine.exec", command=command, timeout_s=2)
            assert caught.value.code == "deadline_exceeded"
        commands = [each["command"] for each in (await ask(agent, "machine.ps"))["processes"]]
        assert "sleep 100" not in commands
        await ask(agent, "machine.signal", signal="SIGUSR1")
        view = await agent.now("stopped")
        exits = [event for event in view["events"] if event["type"] == "exit"]
        assert exits[0]["request"]["exit_event"]["exit_code"] == 3
