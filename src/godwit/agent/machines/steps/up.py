"""Steps on the way up: network, disks, VMM, boot."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from godwit.agent import ports
from godwit.agent.machines import config, run_spec
from godwit.agent.machines.work import Work
from godwit.durable.runner import Abort, Step
from godwit.images.config import ImageConfig
from godwit.wire import shim

BOOTS = 3
"""Times a VM is booted before its machine is given up."""
_RUNNING_S = 150.0
"""From spawn to the process running; past it the boot counts as dead. Longer than the shim's
own deadline for hello."""
_ENTROPY_BYTES = 64
_HOST_S = 60.0
_PATIENCE_S = 120.0

Outputs = Mapping[str, Mapping[str, Any]]


def plan(work: Work, outputs: Outputs) -> ports.VmPlan:
    """Return all that is needed to boot the machine once.

    Raises:
        Failure: `invalid_argument` when config and image give nothing to run.
    """
    image = outputs["fetch_image"]
    machine, network = work.machine, work.host.network
    plumbing = machine.plumbing
    return ports.VmPlan(
        machine_id=machine.machine_id,
        instance_id=machine.instance_id,
        org_id=machine.org_id,
        app_id=machine.app_id,
        slot=machine.slot,
        tap=plumbing.tap,
        resources=machine.resources,
        image=Path(image["path"]),
        scratch_bytes=config.scratch_bytes(machine.config),
        run_spec=run_spec.build(
            machine,
            ImageConfig.model_validate(image["config"]),
            network.guest_network(plumbing),
            private_ip=network.private_ip(plumbing),
            local_ipv4=network.local_ipv4(plumbing),
            entropy=work.host.random(_ENTROPY_BYTES),
        ),
    )


async def clear_remains(work: Work, _: Outputs) -> None:
    """Ensure nothing of an earlier boot is left."""
    await work.host.vmm.discard(work.machine.machine_id, work.machine.slot)


async def plumb_network(work: Work, _: Outputs) -> None:
    """Ensure tap, routes and nftables elements."""
    await work.host.network.plumb(work.machine.plumbing)


async def prepare_vm(work: Work, outputs: Outputs) -> None:
    """Ensure scratch disk, run spec and shim configuration."""
    await work.host.vmm.prepare(plan(work, outputs))


async def spawn_vmm(work: Work, outputs: Outputs) -> None:
    """Ensure shim and VMM run."""
    await work.host.vmm.spawn(plan(work, outputs))


async def boot(work: Work, outputs: Outputs) -> dict[str, Any]:
    """Ensure the machine's process runs, or ran; a dead boot is tried again a few times.

    Raises:
        Abort: Init could not start the process, or no boot came through.
    """
    why = ""
    for attempt in range(1, BOOTS + 1):
        started_at_ms, why = await _await_process(work)
        if started_at_ms is not None:
            return {"started_at_ms": started_at_ms, "boots": attempt}
        work.say(f"boot {attempt} of {BOOTS} failed: {why}")
        if attempt < BOOTS:
            await _respawn(work, outputs)
    raise Abort(f"the machine did not boot in {BOOTS} attempts: {why}", "system")


async def _respawn(work: Work, outputs: Outputs) -> None:
    host, machine = work.host, work.machine
    await host.vmm.discard(machine.machine_id, machine.slot)
    await host.network.plumb(machine.plumbing)
    again = plan(work, outputs)
    await host.vmm.prepare(again)
    await host.vmm.spawn(again)


async def _await_process(work: Work) -> tuple[int | None, str]:
    """Return when the process started, or `None` and why this boot is dead.

    Raises:
        Abort: Init said that the process cannot be started.
    """
    machine = work.machine
    session = await work.host.vmm.connect(machine.machine_id)
    status: shim.Status | None = None
    if session is not None:
        try:
            async with asyncio.timeout(_RUNNING_S):
                status = await _until_running(session)
        except TimeoutError:
            with contextlib.suppress(OSError):
                await session.kill()
            return None, f"the guest did not start its process within {_RUNNING_S:g} s"
        finally:
            await session.close()
    if status is not None and status.started_at_ms is not None:
        return status.started_at_ms, ""
    record = status.exit if status is not None else None
    if record is None:
        record = await work.host.vmm.exit_record(machine.machine_id, machine.instance_id)
    return _judge(record)


async def _until_running(session: ports.ShimSession) -> shim.Status | None:
    latest: shim.Status | None = None
    async for status in session.changes():
        latest = status
        if status.phase in ("running", "exited"):
            break
    return latest


def _judge(record: shim.ExitRecord | None) -> tuple[int | None, str]:
    if record is None:
        return None, "the VM is gone"
    if record.guest is not None:
        # It ran and ended before anybody looked; the exit is taken in like any other.
        return record.exited_at_ms, ""
    if record.failure is not None:
        raise Abort(f"the machine's process could not be started: {record.failure.message}")
    if record.cause == "boot_deadline":
        return None, "the guest did not boot in time"
    return None, "the VM ended while booting"


STEPS: tuple[Step[Work], ...] = (
    Step("clear_remains", "clearing what was left", clear_remains, _HOST_S, _PATIENCE_S),
    Step("plumb_network", "connecting the network", plumb_network, _HOST_S, _PATIENCE_S),
    Step("prepare_vm", "preparing the disk", prepare_vm, _HOST_S, _PATIENCE_S),
    Step("spawn_vmm", "starting the VM", spawn_vmm, _HOST_S, _PATIENCE_S),
    Step("boot", "booting", boot, BOOTS * (_RUNNING_S + _HOST_S), BOOTS * _RUNNING_S),
)
