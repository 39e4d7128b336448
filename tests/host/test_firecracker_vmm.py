"""Machines under Firecracker from the driver down to the process: fake programs, real everything.

The last test has the real jailer and the real Firecracker instead, as far as this KVM goes.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from godwit.agent import slots
from godwit.agent.vmm import hypervisor, running
from godwit.agent.vmm.firecracker import api, jail, programs
from godwit.base import errors, processes, settings
from godwit.wire import host_rpc, shim
from tests.host import firecracker_lab as fc
from tests.host import network_lab as lab

pytestmark = [pytest.mark.host]


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def maps_of(pid: int) -> list[str]:
    """Return what a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def root_of(pid: int) -> Path:
    """Return what a process sees as its root."""
    return Path(f"/proc/{pid}/root").readlink()


@lab.own_namespace
async def test_a_machine_lives_in_its_jail_and_leaves_nothing():
    async with fc.host() as here:
        machine = here.machine(5)
        status = await machine.start()
        vmm = process_status(status.vmm_pid)
        assert vmm["Uid"].split() == vmm["Gid"].split() == ["2000005"] * 4
        assert vmm["NoNewPrivs"] == "1"
        assert int(vmm["CapEff"], 16) == 0
        assert root_of(status.vmm_pid) == machine.jail
        assert status.vmm_pid in here.groups.members(machine.id)
        assert set(fc.devices(machine.jail)) == {"dev/net/tun", "dev/kvm", "dev/urandom"}
        assert {owner for owner, _ in fc.devices(machine.jail).values()} == {2_000_005}
        told = await machine.told()
        assert told["uid"] == 2_000_005
        assert told["disks"] == {"root": 1 << 20, "scratch": 16 << 20}
        assert told["tap"] == "gw5"
        assert told["argv"] == ["sleep", "1000"]
        assert "fake console: the guest runs" in machine.log()
        assert "running sleep 1000" in machine.log()
        await here.vmm.discard(machine.id, 5)
        record = await here.vmm.exit_record(machine.id, "01K8")
        assert record is not None
        assert record.cause == "killed"
        assert here.leftovers() == []
        assert not running.is_alive(status.vmm_pid)
        await here.vmm.discard(machine.id, 5)


@lab.own_namespace
async def test_a_machine_that_stops_by_itself_is_recorded():
    async with fc.host() as here:
        machine = here.machine(5)
        await machine.start()
        session = await machine.session()
        await session.stop("SIGTERM", 1_000)
        record = await machine.ended()
        await session.close()
        assert record.cause == "guest"
        assert record.guest is not None
        assert (record.guest.exit_code, record.vmm.exit_code) == (0, 0)


@lab.own_namespace
async def test_a_machine_is_suspended_and_goes_on_with_its_memory():
    async with fc.host() as here:
        machine = here.machine(5, suspendable=True)
        await machine.start()
        before = await machine.told()
        for _ in range(2):
            await here.vmm.suspend(machine.id, "01K8")
        await here.vmm.discard(machine.id, 5, keep="all")
        assert await here.vmm.has_snapshot(machine.id, "01K8")
        assert here.leftovers() == []
        await here.vmm.resume(machine.plan)
        status = await machine.phase("running")
        assert status.start_kind == "resumed"
        after = await machine.told()
        assert after["argv"] == before["argv"]
        assert len(after["entropy"]) == len(before["entropy"]) + 1
        assert len(set(after["entropy"])) == len(after["entropy"])
        assert not await here.vmm.has_snapshot(machine.id, "01K8")
        await here.vmm.suspend(machine.id, "01K8")
        await here.vmm.discard(machine.id, 5, keep="all")
        await here.vmm.resume(machine.plan)
        again = await machine.told()
        assert len(set(again["entropy"])) == len(before["entropy"]) + 2


@lab.own_namespace
async def test_a_machines_memory_changes_once_its_driver_is_there():
    async with fc.host() as here:
        size = host_rpc.Resources(memory_mb=128, max_memory_mb=256)
        machine, other = here.machine(5, resources=size), here.machine(6)
        await machine.start()
        monitor = here.places.monitor(machine.id)
        assert await here.hypervisor.balloon_mb(monitor) == 128
        await here.vmm.set_memory(machine.id, 200)
        assert await here.hypervisor.balloon_mb(monitor) == 200
        assert await here.vmm.reclaim(machine.id, 50) == 50
        assert await here.hypervisor.balloon_mb(monitor) == 200
        await other.start()
        with pytest.raises(errors.Failure, match="cannot be changed"):
            await here.vmm.set_memory(other.id, 100)


@lab.own_namespace
async def test_a_damaged_snapshot_is_refused_and_nothing_runs():
    async with fc.host() as here:
        machine = here.machine(5, suspendable=True)
        await machine.start()
        await here.vmm.suspend(machine.id, "01K8")
        await here.vmm.discard(machine.id, 5, keep="all")
        state = here.places.directory(machine.id) / "snapshot" / "state"
        state.write_bytes(state.read_bytes()[:-1] + b"x")
        with pytest.raises(errors.Failure) as caught:
            await here.vmm.resume(machine.plan)
        assert caught.value.code == "failed_precondition"
        assert await here.vmm.observed() == frozenset()


@lab.own_namespace
async def test_clones_of_a_template_have_their_own_disks_tap_and_entropy():
    async with fc.host() as here:
        machines = [here.machine(slot, scratch_mb=8 + slot) for slot in (5, 6, 7)]
        template = await here.copies.make("org_1", machines[0].plan.hardware)
        assert here.leftovers() == []
        assert "gwt" not in (await processes.run(["ip", "-o", "link"])).stdout.decode()
        assert template.memory is not None
        inode = template.memory.stat().st_ino
        here.vmm._copies = here.copies
        statuses = [await machine.start() for machine in machines]
        assert {status.start_kind for status in statuses} == {"warm"}
        told = [await machine.told() for machine in machines]
        assert [one["tap"] for one in told] == ["gw5", "gw6", "gw7"]
        sizes = [one["disks"]["scratch"] for one in told]
        assert sizes == [13 << 20, 14 << 20, 15 << 20]
        assert {one["disks"]["root"] for one in told} == {1 << 20}
        entropy = [word for one in told for word in one["entropy"]]
        assert len(set(entropy)) == len(entropy) >= 3
        assert {machine.jail.joinpath("memory").stat().st_ino for machine in machines} == {inode}


@lab.own_namespace
async def test_a_template_that_cannot_be_loaded_costs_a_boot_and_no_more():
    async with fc.host() as here:
        machine, next_one = here.machine(5), here.machine(6)
        template = await here.copies.make("org_1", machine.plan.hardware)
        template.state.write_text("{}")
        here.vmm._copies = here.copies
        for one in (machine, next_one):
            status = await one.start()
            assert status.start_kind == "cold"
            assert (await one.told())["argv"] == ["sleep", "1000"]
        assert not template.state.exists()


@lab.own_namespace
async def test_a_killed_vmm_is_recorded_and_a_stopped_one_can_be_discarded():
    async with fc.host() as here:
        killed, stopped = here.machine(5), here.machine(6)
        status = await killed.start()
        os.kill(status.vmm_pid, signal.SIGKILL)
        record = await killed.ended()
        assert (record.cause, record.vmm.signal) == ("vmm", signal.SIGKILL)
        status = await stopped.start()
        os.kill(status.vmm_pid, signal.SIGSTOP)
        await here.vmm.discard(stopped.id, 6)
        assert not running.is_alive(status.vmm_pid)
        await here.vmm.discard(killed.id, 5)
        assert here.leftovers() == []


@lab.own_namespace
async def test_a_vmm_that_refuses_its_configuration_says_so_in_the_record():
    async with fc.host() as here:
        machine = here.machine(5)
        await here.vmm.prepare(machine.plan)
        here.vmm_programs.firecracker.with_name("jailer").write_text(
            "#!/bin/sh\necho 'jailer: no such luck' >&2\nexit 7\n"
        )
        with contextlib.suppress(errors.Failure):
            await here.vmm.spawn(machine.plan)
        record = await machine.ended()
        assert (record.cause, record.vmm.exit_code) == ("vmm", 7)
        assert record.failure is not None
        assert "jailer: no such luck" in record.failure.message
        await here.vmm.discard(machine.id, 5)
        assert here.leftovers() == []


@lab.own_namespace
async def test_a_killed_shim_takes_its_jailed_vmm_along():
    async with fc.host() as here:
        machine = here.machine(5)
        status = await machine.start()
        os.kill(status.shim_pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            while running.is_alive(status.vmm_pid):
                await asyncio.sleep(0.01)
        await here.vmm.discard(machine.id, 5)
        assert here.leftovers() == []


@lab.own_namespace
async def test_what_a_killed_agent_left_of_a_jail_is_swept():
    async with fc.host() as here:
        alive, gone = here.machine(5), here.machine(6)
        await alive.start()
        left = jail.Jail(
            here.places.store / "jails", gone.id, 2_000_006, here.vmm_programs.firecracker
        )
        left.make()
        await asyncio.to_thread(jail.sweep, here.places.store / "jails")
        assert not left.home.exists()
        assert alive.jail.exists()
        assert (await alive.told())["uid"] == 2_000_005


needs_the_real = pytest.mark.skipif(
    fc.real_programs() is None, reason="no firecracker and jailer on the PATH"
)


def guest_kit() -> fc.Kit:
    """Return the kernel and the initramfs of real guests."""
    home = settings.from_process().paths.cache / "guest"
    kernels = sorted(home.glob("kernel/*/vmlinux"))
    images = sorted(home.glob("initramfs-*.img"), key=lambda path: path.stat().st_mtime)
    if not (kernels and images):
        pytest.skip("the guest kernel is not here: `godwit doctor` makes it")
    return fc.Kit(kernels[-1], images[-1])


async def booting(machine: fc.Machine) -> shim.Status:
    """Start a machine whose guest gets nowhere; return the status, or skip without a machine."""
    await machine.host.vmm.prepare(machine.plan)
    await machine.host.vmm.spawn(machine.plan)
    session = await machine.session()
    status = await session.status()
    await session.close()
    if status.phase == "exited":
        record = await machine.ended()
        assert record.failure is not None
        assert "KVM" in record.failure.message
        pytest.skip(f"no machine can be made here: {record.failure.message}")
    assert status.phase == "booting"
    return status


@needs_the_real
@lab.own_namespace
async def test_the_real_programs_come_as_far_as_this_kvm_goes():
    """Jail, rights and configuration are the real ones'; the guest gets nowhere without KVM."""
    async with fc.host(await programs.find(), guest_kit()) as here:
        machine = here.machine(5)
        status = await booting(machine)
        monitor = here.places.monitor(machine.id)
        async with api.Api.open(monitor.readlink()) as asked:
            info = await asked.info()
            size = await asked.machine_config()
        assert info.id == f"godwit-{machine.id}"
        assert (info.state, size.mem_size_mib) == ("Running", 128)
        vmm = process_status(status.vmm_pid)
        assert vmm["Uid"].split() == ["2000005"] * 4
        assert vmm["Seccomp"] == "2"
        assert {"dev/net/tun", "dev/kvm"} <= set(fc.devices(machine.jail))
        await here.hypervisor.pause(monitor)
        await here.hypervisor.go_on(monitor)
        with pytest.raises(errors.Failure, match="Device not found"):
            await here.hypervisor.balloon_mb(monitor)
        os.kill(status.shim_pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            while running.is_alive(status.vmm_pid):
                await asyncio.sleep(0.01)
        await here.vmm.discard(machine.id, 5)
        assert here.leftovers() == []


@needs_the_real
@lab.own_namespace
async def test_the_real_programs_clone_a_saved_machine_with_its_own_tap_and_disks(tmp_path):
    async with fc.host(await programs.find(), guest_kit()) as here:
        origin, clone = here.machine(5), here.machine(6, scratch_mb=24)
        await booting(origin)
        into = hypervisor.Snapshot(tmp_path / "state", tmp_path / "memory")
        monitor = here.places.monitor(origin.id)
        await here.hypervisor.pause(monitor)
        saved = await here.hypervisor.save(monitor, into)
        assert saved.memory is not None
        assert saved.memory.stat().st_size == 128 << 20
        assert saved.memory.stat().st_blocks * 512 < 100 << 20
        assert saved.memory.stat().st_uid == 0
        await here.vmm.prepare(clone.plan)
        guest = replace(here.guest_of(clone), snapshot=saved)
        async with here.launched(guest) as pid:
            await here.hypervisor.begin(guest)
            await here.hypervisor.begin(guest)
            async with api.Api.open(guest.monitor.readlink()) as asked:
                assert (await asked.info()).state == "Running"
            assert process_status(pid)["Uid"].split() == ["2000006"] * 4
            views = [line for line in maps_of(pid) if line.endswith("/memory")]
            assert views
            assert {line.split()[1] for line in views} == {"rw-p"}
            with pytest.raises(OSError, match="busy"):
                slots.open_tap("gw6")
        damaged = saved.state.with_name("damaged")
        damaged.write_bytes(saved.state.read_bytes()[:-20] + bytes(20))
        wrong = replace(guest, snapshot=replace(saved, state=damaged))
        async with here.launched(wrong):
            with pytest.raises(errors.Failure) as caught:
                await here.hypervisor.begin(wrong)
            assert caught.value.code == "failed_precondition"
            assert "Firecracker refused PUT /snapshot/load" in caught.value.message
