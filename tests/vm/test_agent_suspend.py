"""Suspend and resume by the whole agent with real VMs: memory, disk, clock, crashes between steps."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from godwit.agent.vmm import hypervisor
from godwit.base import errors
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.test_agent import Life, M, host, life

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

LISTENS = "(while true; do busybox nc -l -p 7777 </dev/null >/dev/null; done) & "
COUNTING = (
    f"{LISTENS}n=0; while true; do n=$((n+1));"
    " echo $n > /run/new; busybox mv /run/new /run/n; sleep 0.1; done"
)
"""Whoever reads the number finds one, whenever it is."""
CHECKED = {"checks": {"open": {"type": "tcp", "port": 7777, "interval": "2s"}}}
SUSPENDS_IDLE = {"services": [{"protocol": "tcp", "internal_port": 80, "autostop": "suspend"}]}


async def said(agent: Life, script: str) -> str:
    """Return what a command in the machine says."""
    answer = await agent.call(
        "machine.exec", machine_id=M, command=["sh", "-c", script], timeout_s=120
    )
    assert answer["exit_code"] == 0, answer
    return str(answer["stdout"]).strip()


async def answers(agent: Life) -> bool:
    """Tell whether a command in the machine comes through."""
    try:
        return await said(agent, "echo here") == "here"
    except errors.Failure:
        return False


async def suspended(agent: Life, **changes: Any) -> None:
    await agent.create(COUNTING, **changes)
    await agent.reach("started")
    await said(agent, "until [ -s /run/n ]; do sleep 0.1; done; echo kept > /kept; sync")
    await agent.call("machine.suspend", machine_id=M)
    await agent.now("suspended")


async def passes(agent: Life) -> None:
    """Return once every check of the machine passes."""
    async with asyncio.timeout(120):
        while [one["status"] for one in (await agent.view())["checks"]] != ["passing"]:
            await asyncio.sleep(0.1)


async def nothing_runs(here: vm_lab.Host) -> None:
    assert await here.vmm.observed() == frozenset()
    assert await here.network.observed() == frozenset()
    assert here.groups.members(M) == frozenset()


@pytest.mark.parametrize("config", [{}, SUSPENDS_IDLE], ids=["asked", "idle"])
def test_a_suspended_machine_runs_on_where_it_was(config: dict[str, Any]) -> None:
    async def body() -> None:
        async with host() as here, life(here) as agent:
            await suspended(agent, config={**config, **CHECKED})
            await nothing_runs(here)
            held = await agent.call("machine.lease.acquire", machine_id=M, ttl_s=300)
            await asyncio.sleep(2)
            late_s = -time.monotonic()
            await agent.call("machine.start", machine_id=M)
            await agent.now("started")
            late_s += time.monotonic()
            await passes(agent)
            lease = (await agent.call("machine.lease.get", machine_id=M))["lease"]
            assert lease["expires_at"] == held["lease"]["expires_at"]
            assert await said(agent, "cat /kept") == "kept"
            first = int(await said(agent, "cat /run/n"))
            assert first > 1
            async with asyncio.timeout(120):
                while int(await said(agent, "cat /run/n")) <= first:
                    await asyncio.sleep(0.1)
            began = time.time()
            # The word of the hour is late by as much as it took to come.
            then = int(await said(agent, "date +%s"))
            assert began - late_s - 1 <= then <= time.time() + 1
            types = [event["type"] for event in (await agent.view())["events"]]
            assert types[:4] == ["start", "resume", "suspend", "suspend"]
            intervals = (await agent.call("usage.read", org_id="org_a"))["intervals"]
            assert [entry["ended_at_ms"] is None for entry in intervals] == [False, True]
            await agent.call("machine.stop", machine_id=M)
            await agent.now("stopped")
            await nothing_runs(here)

    lab.own_namespace(body)()


@lab.own_namespace
async def test_without_its_snapshot_it_boots_and_keeps_its_root() -> None:
    async with host() as here, life(here) as agent:
        await suspended(agent)
        for saved in (here.places.machines / M / "snapshot").iterdir():
            saved.unlink()
        await agent.call("machine.start", machine_id=M)
        await agent.now("started")
        assert await said(agent, "cat /kept") == "kept"
        types = [event["type"] for event in (await agent.view())["events"]]
        assert types[:3] == ["start", "launch", "resume"]
        await agent.call("machine.restart", machine_id=M)
        await agent.reach("started")
        await agent.now("started")
        assert await said(agent, "cat /kept 2>/dev/null || echo fresh") == "fresh"


@lab.own_namespace
async def test_the_next_agent_resumes_what_the_last_one_suspended() -> None:
    async with host() as here:
        async with life(here) as first:
            await suspended(first)
        async with life(here) as second:
            assert (await second.view())["state"] == "suspended"
            await second.call("machine.start", machine_id=M)
            await second.now("started")
            assert await said(second, "cat /kept") == "kept"


@lab.own_namespace
async def test_a_stop_of_a_suspended_machine_leaves_nothing_of_it() -> None:
    async with host() as here, life(here) as agent:
        await suspended(agent)
        await agent.call("machine.stop", machine_id=M)
        await agent.now("stopped")
        await nothing_runs(here)
        left = {entry.name for entry in (here.places.machines / M).iterdir()}
        assert left <= {"logs", "exit.json", "shim.stderr", "shim.lock"}


@lab.own_namespace
async def test_a_suspend_that_is_broken_off_leaves_the_machine_running() -> None:
    async with host() as here, life(here) as agent:
        await agent.create(COUNTING)
        version = (await agent.reach("started"))["version"]
        watching = await here.vmm.connect(M)
        assert watching is not None
        # At the last moment, whoever is fast: all is written, and nobody has noted it.
        written = asyncio.Event()
        with pytest.MonkeyPatch.context() as patch:
            save = here.vmm._vmm.save

            async def stuck(monitor: Path, into: hypervisor.Snapshot) -> hypervisor.Snapshot:
                found = await save(monitor, into)
                written.set()
                await asyncio.Event().wait()
                return found

            patch.setattr(here.vmm._vmm, "save", stuck)
            saving = agent.tasks.spawn(here.vmm.suspend(M, version), name="saving")
            async with asyncio.timeout(120):
                async for status in watching.changes():
                    if status.asleep:
                        break
                await written.wait()
            saving.cancel()
            await asyncio.wait({saving})
        assert not await here.vmm.has_snapshot(M, version)
        await watching.close()
        # Its channel is being opened again: until then commands are refused.
        async with asyncio.timeout(120):
            while not await answers(agent):
                await asyncio.sleep(0.1)
