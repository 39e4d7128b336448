"""Steps on the way down. They never give up: what was made is taken away, however long it takes.

Stop sequence: spec/machines.md §3.11.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from godwit.agent import ports
from godwit.agent.machines import config
from godwit.agent.machines.work import Work
from godwit.durable.runner import Step

_GRACE_S = 10.0
"""Beyond the timeout of the stop: SIGTERM, SIGKILL, unmount, power off."""
_KILLED_S = 10.0
_HOST_S = 60.0
_LONGEST_STOP_S = config.LONGEST_STOP_MS / 1000 + _GRACE_S + _KILLED_S + 20.0

Outputs = Mapping[str, Mapping[str, Any]]


def _stop(work: Work) -> config.Stop:
    return config.stop(work.machine.config, work.input.get("signal"), work.input.get("timeout_ms"))


async def signal_guest(work: Work, _: Outputs) -> None:
    """Ensure the guest was asked to end; one that has no process yet is ended at once."""
    session = await work.host.vmm.connect(work.machine.machine_id)
    if session is None:
        return
    try:
        status = await session.status()
        if status.phase == "running":
            how = _stop(work)
            work.say(f"Sending signal {how.signal} to main child process")
            await session.stop(how.signal, how.timeout_ms)
        elif status.phase != "exited":
            await session.kill()
    finally:
        await session.close()


async def await_exit(work: Work, _: Outputs) -> None:
    """Ensure the VM has ended: waits as long as the stop may take, then kills it."""
    session = await work.host.vmm.connect(work.machine.machine_id)
    if session is None:
        return
    try:
        if not await _exited(session, _stop(work).timeout_ms / 1000 + _GRACE_S):
            work.say("The VM did not end in time and is killed")
            await session.kill()
            await _exited(session, _KILLED_S)
    finally:
        await session.close()


async def discard_vmm(work: Work, _: Outputs) -> None:
    """Ensure no shim, VMM, cgroup, socket or scratch disk is left."""
    await work.host.vmm.discard(work.machine.machine_id, work.machine.slot)


async def release_network(work: Work, _: Outputs) -> None:
    """Ensure tap, routes, nftables elements and established flows are gone."""
    await work.host.network.unplumb(work.machine.plumbing)


async def _exited(session: ports.ShimSession, within_s: float) -> bool:
    """Wait until the VM has ended or its shim is gone; return whether it did in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            async for status in session.changes():
                if status.phase == "exited":
                    break
            return True
    return False


STEPS: tuple[Step[Work], ...] = (
    Step("signal_guest", "stopping", signal_guest, _HOST_S, None),
    Step("await_exit", "waiting for the process to end", await_exit, _LONGEST_STOP_S, None),
    Step("discard_vmm", "removing the VM", discard_vmm, _HOST_S, None),
    Step("release_network", "disconnecting the network", release_network, _HOST_S, None),
)
