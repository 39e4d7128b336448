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
from godwit.base import errors
from godwit.durable.runner import HandOff, Step
from godwit.wire import host_rpc

_GRACE_S = 10.0
"""Beyond the timeout of the stop: SIGTERM, SIGKILL, unmount, power off."""
_SYNC_S = 60.0
"""Beyond that for a root that lasts: what is in memory yet goes to a disk that is paced."""
_KILLED_S = 10.0
_ANSWER_S = 10.0
_ASKED_TIMES = 3
"""A host may be that busy; a shim that was stopped by a signal goes on meanwhile, too."""
_HOST_S = 60.0
_SAVE_S = 300.0
"""There is no cap on a machine's memory: 16 GB take a while to a slow disk."""
_LONGEST_STOP_S = config.LONGEST_STOP_MS / 1000 + _GRACE_S + _SYNC_S + _KILLED_S + 20.0

Outputs = Mapping[str, Mapping[str, Any]]


def _stop(work: Work) -> config.Stop:
    return config.stop(work.machine.config, work.input.get("signal"), work.input.get("timeout_ms"))


async def signal_guest(work: Work, _: Outputs) -> None:
    """Ensure the guest was asked to end; one that has no process yet is ended at once.

    A shim that answers nobody cannot pass it on: what follows ends the VM by its pid.
    """
    for _attempt in range(_ASKED_TIMES):
        with contextlib.suppress(TimeoutError):
            await _signal(work)
            return
    work.say("The VM's shim does not answer; the VM is killed")


async def _signal(work: Work) -> None:
    session = await work.host.vmm.connect(work.machine.machine_id)
    if session is None:
        return
    try:
        status = await session.status()
        if status.phase == "running":
            await _withdraw(work)
            how = _stop(work)
            work.say(f"Sending signal {how.signal} to main child process")
            await session.stop(how.signal, how.timeout_ms)
        elif status.phase != "exited":
            await session.kill()
    finally:
        await session.close()


async def _withdraw(work: Work) -> None:
    """Let edges know first: a request that they send now would find the process ending.

    A machine that asked for this itself hears that it will be.
    """
    await work.host.answered(work.machine.machine_id)
    if config.items(work.machine.config.get("services")):
        await work.host.withdrawn(work.machine.machine_id)


async def await_exit(work: Work, _: Outputs) -> None:
    """Ensure the VM has ended: waits as long as the stop may take, then kills it.

    One whose shim takes no connection is left to what follows.
    """
    try:
        session = await work.host.vmm.connect(work.machine.machine_id)
    except TimeoutError:
        return
    if session is None:
        return
    try:
        grace_s = _GRACE_S
        if config.persist(work.machine.config) != "never":
            grace_s += _SYNC_S
        if not await _exited(session, _stop(work).timeout_ms / 1000 + grace_s):
            work.say("The VM did not end in time and is killed")
            await session.kill()
            await _exited(session, _KILLED_S)
    finally:
        await session.close()


async def save_state(work: Work, _: Outputs) -> dict[str, Any]:
    """Ensure the VM's memory and devices are saved and it does not run on.

    Raises:
        Abort: They cannot be saved, and nobody said that a stop would do; it runs on.
        HandOff: They cannot be saved: it is stopped instead.
    """
    machine = work.machine
    await _withdraw(work)
    try:
        await work.host.vmm.suspend(machine.machine_id, machine.instance_id)
    except errors.Failure as failure:
        if failure.code != "failed_precondition" or not work.input.get("or_stop"):
            raise
        work.say(f"Cannot be suspended and is stopped instead: {failure.message}")
        given = {"source": work.input.get("source"), "requested": True}
        raise HandOff("stop", given) from failure
    work.say("Suspended: the machine's memory is saved")
    return {"saved_at_ms": work.host.clock.now_ms()}


async def discard_vmm(work: Work, _: Outputs) -> None:
    """Ensure no shim, VMM, cgroup, socket or snapshot is left, and no root that does not last.

    Remains beside a suspended machine are cleared without its disk and snapshot.
    """
    machine = work.machine
    await work.host.vmm.discard(machine.machine_id, machine.slot, keep=_kept(work))


def _kept(work: Work) -> ports.Kept:
    machine, kind = work.machine, work.run.kind
    if kind == "clear" and machine.state == "suspended":
        return "all"
    lasts = config.persist(machine.config) != "never"
    coming = work.input.get("update")
    # A machine that is put aside in the middle of an update keeps what it has: it goes on later.
    if kind in ("update", "replace") and coming is not None:
        update = host_rpc.Update.model_validate(coming)
        lasts = config.outlasts_update(machine.config, update.config)
    return "root" if lasts and kind != "destroy" else "nothing"


async def discard_keeping_disk(work: Work, _: Outputs) -> None:
    """Ensure no shim, VMM, cgroup or socket is left; scratch disk and snapshot stay."""
    await work.count_use()
    await work.host.vmm.discard(work.machine.machine_id, work.machine.slot, keep="all")


async def release_network(work: Work, _: Outputs) -> None:
    """Ensure tap, routes, nftables elements and established flows are gone."""
    await work.host.network.unplumb(work.machine.plumbing)


async def _exited(session: ports.ShimSession, within_s: float) -> bool:
    """Wait until the VM has ended or its shim is gone; return whether it did in time.

    A shim that says nothing at all is not waited for.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + within_s
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(within_s, _ANSWER_S)) as patience:
            async for status in session.changes():
                patience.reschedule(ends_at)
                if status.phase == "exited":
                    break
            return True
    return False


STEPS: tuple[Step[Work], ...] = (
    Step("signal_guest", "stopping", signal_guest, _HOST_S, None),
    Step("await_exit", "waiting for the process to end", await_exit, _LONGEST_STOP_S, None),
    Step("save_state", "saving the memory", save_state, _SAVE_S, _SAVE_S),
    Step("discard_vmm", "removing the VM", discard_vmm, _HOST_S, None),
    Step("discard_keeping_disk", "removing the VM", discard_keeping_disk, _HOST_S, None),
    Step("release_network", "disconnecting the network", release_network, _HOST_S, None),
)
