"""Steps on the way up: network, disks, VMM, boot."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from godwit.agent import ports
from godwit.agent.machines import (
    caller_key,
    config,
    records,
    run_containers,
    run_spec,
    web_identity,
)
from godwit.agent.machines.work import Work
from godwit.base import errors
from godwit.durable.runner import Abort, HandOff, Step
from godwit.images.config import ImageConfig
from godwit.wire import shim

BOOTS = 3
"""Times a VM is booted before its machine is given up."""
_RUNNING_S = 150.0
"""From spawn to the process running; past it the boot counts as dead. Longer than the shim's
own deadline for hello."""
_RESUMED_S = 60.0
"""From a resume to the guest's word that its process runs on."""
_STUCK_S = 300.0
_TOKEN_S = 2.0
_ENTROPY_BYTES = 64
_HOST_S = 60.0
_PATIENCE_S = 120.0
_TURN_S = 3_600.0
"""A thousand machines on a slow host."""

Outputs = Mapping[str, Mapping[str, Any]]


async def _boot_plan(work: Work, outputs: Outputs) -> ports.VmPlan:
    """Return all that is needed to boot the machine once, its secrets in the clear.

    Raises:
        Failure: As `plan`; `failed_precondition` when its secrets do not open here.
    """
    return plan(work, outputs, await work.host.secrets.opened(work.machine))


def plan(work: Work, outputs: Outputs, secrets: Mapping[str, bytes] | None) -> ports.VmPlan:
    """Return all that is needed to boot the machine once, or with no secrets to resume it.

    Raises:
        Failure: `invalid_argument` when config and image give nothing to run.
    """
    image = outputs["fetch_image"]
    machine, network = work.machine, work.host.network
    plumbing = machine.plumbing
    addresses = run_containers.Addresses(network.private_ip(plumbing), network.public_ip())
    spec = run_spec.build(
        machine,
        ImageConfig.model_validate(image["config"]),
        network.guest_network(plumbing),
        private_ip=addresses.private_ip,
        local_ipv4=network.local_ipv4(plumbing),
        entropy=work.host.random(_ENTROPY_BYTES),
        public_ip=addresses.public_ip,
        secrets=secrets,
    )
    contained = image.get("containers", ())
    configs = [ImageConfig.model_validate(one["config"]) for one in contained]
    whole = run_containers.added(spec, machine, configs, addresses, secrets)
    return ports.VmPlan(
        machine_id=machine.machine_id,
        instance_id=machine.instance_id,
        org_id=machine.org_id,
        app_id=machine.app_id,
        slot=machine.slot,
        tap=plumbing.tap,
        resources=work.host.sized(machine).resources,
        image=Path(image["path"]),
        scratch_bytes=config.scratch_bytes(machine.config),
        swap_bytes=config.swap_bytes(machine.config),
        cache_bytes=config.cache_bytes(machine.config),
        images=_further_images(machine, contained),
        volume_bytes=run_containers.volume_bytes(machine),
        kernel_arguments=config.kernel_arguments(machine.config),
        lasting_root=_lasts(machine),
        run_spec=caller_key.added(whole, work.host.fly_src_key()),
        keep_scratch=_kept(work) != "nothing",
        suspendable=(
            config.suspends_idle(machine.config) and config.unsuspendable(machine.config) is None
        ),
    )


def _further_images(
    machine: records.Machine, contained: Sequence[Mapping[str, Any]]
) -> tuple[Path, ...]:
    """Return the files behind the disks of containers' images."""
    digests = [image.digest for image in machine.container_images]
    return tuple(
        Path(contained[digests.index(digest)]["path"])
        for digest in run_containers.further_images(machine)
    )


def _lasts(machine: records.Machine) -> bool:
    return config.persist(machine.config) != "never"


def _kept(work: Work) -> ports.Kept:
    """Return what of the VM before this one stays for it."""
    if work.run.kind == "resume" or work.input.get("keep_root") is True:
        return "all"
    return "root" if _lasts(work.machine) else "nothing"


async def clear_remains(work: Work, _: Outputs) -> None:
    """Ensure nothing of an earlier boot is left but a root that lasts.

    After a suspend its disk and snapshot stay.
    """
    machine = work.machine
    await work.host.vmm.discard(machine.machine_id, machine.slot, keep=_kept(work))


async def await_turn(work: Work, _: Outputs) -> None:
    """Wait for the machine's turn to boot: after a power loss all machines of a host want to."""
    machine = work.host.sized(work.machine)
    hardware = ports.Hardware.of(
        machine.resources,
        swap_bytes=config.swap_bytes(machine.config),
        cache_bytes=config.cache_bytes(machine.config),
        images=len(run_containers.further_images(machine)),
        volumes=len(run_containers.volume_bytes(machine)),
        kernel_arguments=config.kernel_arguments(machine.config),
        lasting_root=_lasts(machine),
    )
    await work.host.vmm.await_turn(machine.machine_id, machine.org_id, hardware)


async def plumb_network(work: Work, _: Outputs) -> None:
    """Ensure tap, routes and nftables elements."""
    await work.host.network.plumb(work.machine.plumbing)


async def prepare_vm(work: Work, outputs: Outputs) -> None:
    """Ensure the machine's disks."""
    await work.host.vmm.prepare(await _boot_plan(work, outputs))


async def spawn_vmm(work: Work, outputs: Outputs) -> None:
    """Ensure shim and VMM run."""
    await work.host.vmm.spawn(await _with_token(work, await _boot_plan(work, outputs)))


async def _with_token(work: Work, made: ports.VmPlan) -> ports.VmPlan:
    """Return the plan with a token for AWS, if it is to have one and control has it at hand.

    It comes later otherwise: no start waits long for it, or fails.
    """
    if not web_identity.is_told(made.run_spec):
        return made
    try:
        token = await web_identity.fetch(work.host.control, made.machine_id, _TOKEN_S)
    except errors.Failure as failure:
        work.say(f"{web_identity.TOKEN_FILE} comes later: {failure.message}")
        return made
    return dataclasses.replace(made, run_spec=web_identity.added(made.run_spec, token))


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
    await host.vmm.discard(machine.machine_id, machine.slot, keep=_kept(work))
    await host.network.plumb(machine.plumbing)
    again = await _boot_plan(work, outputs)
    await host.vmm.prepare(again)
    await host.vmm.spawn(await _with_token(work, again))


async def resume_vm(work: Work, outputs: Outputs) -> None:
    """Ensure shim and VM run on from the saved state.

    Raises:
        HandOff: There is no usable snapshot: it is booted, keeping its root.
    """
    try:
        await work.host.vmm.resume(plan(work, outputs, None))
    except errors.Failure as failure:
        if failure.code != "failed_precondition":
            raise
        raise _cold(work, failure.message) from failure


async def await_resumed(work: Work, _: Outputs) -> dict[str, Any]:
    """Ensure the machine's process runs on, or ran on and has ended.

    Raises:
        HandOff: The resumed VM is dead: it is booted, keeping its root.
    """
    try:
        started_at_ms, why = await _await_process(work, _RESUMED_S)
    except Abort as abort:
        started_at_ms, why = None, abort.message
    if started_at_ms is None:
        raise _cold(work, why)
    work.say("Resumed from its snapshot")
    return {"resumed_at_ms": started_at_ms}


def _cold(work: Work, why: str) -> HandOff:
    work.say(f"Cannot be resumed and boots instead, its disk as it was: {why}")
    return HandOff("start", {"source": work.input.get("source"), "keep_root": True})


async def _await_process(work: Work, within_s: float = _RUNNING_S) -> tuple[int | None, str]:
    """Return when the process started, or `None` and why this boot is dead.

    Raises:
        Abort: Init said that the process cannot be started.
    """
    machine = work.machine
    session = await work.host.vmm.connect(machine.machine_id)
    status: shim.Status | None = None
    if session is not None:
        try:
            async with asyncio.timeout(within_s):
                status = await _until_running(session)
        except TimeoutError:
            with contextlib.suppress(OSError):
                await session.kill()
            return None, f"the guest did not start its process within {within_s:g} s"
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
    Step("await_turn", "waiting for its turn to boot", await_turn, _TURN_S, None),
    Step("plumb_network", "connecting the network", plumb_network, _HOST_S, _PATIENCE_S),
    Step("prepare_vm", "preparing the disk", prepare_vm, _HOST_S, _PATIENCE_S),
    Step("spawn_vmm", "starting the VM", spawn_vmm, _HOST_S, _PATIENCE_S),
    Step("resume_vm", "resuming the VM", resume_vm, _RESUMED_S, _PATIENCE_S),
    Step("await_resumed", "resuming", await_resumed, _RESUMED_S + _HOST_S, _PATIENCE_S),
    Step("boot", "booting", boot, BOOTS * (_RUNNING_S + _HOST_S), BOOTS * _RUNNING_S, _STUCK_S),
)
