"""The agent killed with SIGKILL in the middle of every kind of operation, with real VMs.

Every write of every operation is gone through on a fake host (test_operations); these are samples
of what a kill leaves on a real one. Each ends with the host counted over: see `traces`.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from godwit.testing import agents
from tests.host import network_lab as lab
from tests.vm import crash, vm_lab
from tests.vm.test_agent import RESOURCES, Life, M, host, life
from tests.vm.test_agent_suspend import COUNTING, SUSPENDS_IDLE, said, suspended

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

COUNTED = "echo kept > /kept; " + COUNTING
COUNTS = "until [ -s /run/n ]; do sleep 0.1; done; cat /kept"


async def created(agent: Life) -> None:
    await agent.create(COUNTED)
    await agent.reach("started")


async def starts(agent: Life) -> None:
    await agent.create(COUNTED)


async def stops(agent: Life) -> None:
    await created(agent)
    await agent.call("machine.stop", machine_id=M)


async def restarts(agent: Life) -> None:
    await created(agent)
    await agent.call("machine.restart", machine_id=M)


async def updates(agent: Life) -> None:
    await created(agent)
    config = {"init": {"cmd": ["sh", "-c", COUNTED]}}
    update = agents.update(M, "01NEW", resources=RESOURCES, config=config)
    await agent.call("machine.update", **update)


async def breaks_away(agent: Life) -> None:
    await created(agent)
    os.kill(agent.vmm_pid(), signal.SIGKILL)


async def destroys(agent: Life) -> None:
    await created(agent)
    await agent.call("machine.destroy", machine_id=M, force=True)


async def suspends(agent: Life) -> None:
    await created(agent)
    await said(agent, COUNTS)
    await agent.call("machine.suspend", machine_id=M)


async def suspends_with_memory_of_its_own(agent: Life) -> None:
    await agent.create(COUNTED, config=SUSPENDS_IDLE)
    await agent.reach("started")
    await said(agent, COUNTS)
    await agent.call("machine.suspend", machine_id=M)


async def resumes(agent: Life) -> None:
    await suspended(agent)
    await agent.call("machine.start", machine_id=M)


@dataclass(frozen=True)
class Sample:
    """One moment to be killed at.

    Attributes:
        kind: Of the operation.
        step: The one whose end the journal has; empty while the state is half saved.
        act: Begins the operation.
        ends: Where it ends with the next agent.
    """

    kind: str
    step: str
    act: Callable[[Life], Awaitable[None]]
    ends: str

    def when(self, here: vm_lab.Host) -> Callable[[], bool]:
        """Return what tells that the moment has come."""
        if not self.step:
            return crash.half_saved(here, M)
        return crash.step_done(here, self.kind, self.step)


SAMPLES = [
    Sample("start", "plumb_network", starts, "started"),
    Sample("start", "spawn_vmm", starts, "started"),
    Sample("stop", "signal_guest", stops, "stopped"),
    Sample("stop", "discard_vmm", stops, "stopped"),
    Sample("restart", "release_network", restarts, "started"),
    Sample("update", "adopt_version", updates, "started"),
    Sample("update", "spawn_vmm", updates, "started"),
    Sample("relaunch", "record_exit", breaks_away, "started"),
    Sample("destroy", "await_exit", destroys, "destroyed"),
    Sample("suspend", "", suspends, "suspended"),
    Sample("suspend", "save_state", suspends_with_memory_of_its_own, "suspended"),
    Sample("resume", "plumb_network", resumes, "started"),
    Sample("resume", "resume_vm", resumes, "started"),
    Sample("resume", "await_resumed", resumes, "started"),
]


def name_of(sample: Sample) -> str:
    """Return what a test of a sample is called."""
    return f"{sample.kind} after {sample.step}" if sample.step else "suspend with half a state"


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_killed_in_the_middle_the_next_agent_finishes_and_nothing_is_left(sample: Sample) -> None:
    goes_through(sample)


def goes_through(sample: Sample) -> None:
    """Kill an agent at a moment and have the next one take over."""

    async def body() -> None:
        async with host() as here:
            await crash.killed(here, sample.act, sample.when(here))
            async with life(here) as second:
                view = await second.now(sample.ends)
                if sample.ends == "suspended":
                    await second.call("machine.start", machine_id=M)
                    view = await second.now("started")
                if view["state"] == "started":
                    # Exactly one VMM, and it is the machine.
                    second.vmm_pid()
                    assert await said(second, COUNTS) == "kept"
                    assert await here.vmm.observed() == {M}
                    wanted = "01NEW" if sample.kind == "update" else agents.offer(M).instance_id
                    assert view["instance_id"] == wanted
                else:
                    assert await here.vmm.observed() == frozenset()
                    assert await here.network.observed() == frozenset()
                exits = [event for event in view["events"] if event["type"] == "exit"]
                assert len(exits) == (sample.kind not in ("start", "suspend", "resume"))

    lab.own_namespace(body)()
