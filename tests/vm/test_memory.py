"""Machines whose memory changes while they run: the balloon, and the limit that goes with it."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.vmm import cgroups, qemu
from godwit.base import errors
from godwit.wire import host_rpc
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

GROWING = host_rpc.Resources(memory_mb=256, max_memory_mb=512)
_LIMITS = ("memory/{}/memory.limit_in_bytes", "{}/memory.max")
_STAT = ("memory/{}/memory.stat", "{}/memory.stat")
_MAPPED = ("mapped_file", "file_mapped")


async def total_mb(machine: vm_lab.Machine) -> int:
    """Return how much memory the guest says it has."""
    answer = await machine.run("busybox awk '/MemTotal/ {print $2}' /proc/meminfo")
    return int(answer.stdout) // 1024


async def settled(machine: vm_lab.Machine, below_mb: int) -> int:
    """Return how much memory the guest has once its balloon holds enough and no more comes."""
    before_mb = 0
    async with asyncio.timeout(240):
        while (has_mb := await total_mb(machine)) >= below_mb or has_mb != before_mb:
            before_mb = has_mb
            await asyncio.sleep(0.3)
    return has_mb


def group_says(here: vm_lab.Host, machine: vm_lab.Machine, forms: tuple[str, ...]) -> str:
    """Return what the kernel keeps of the machine's VMM."""
    group = f"godwit/test-{here.places.run_dir.name}/{machine.id}"
    for form in forms:
        path = cgroups.ROOT / form.format(group)
        if path.exists():
            return path.read_text()
    pytest.skip("this host limits no memory")


def limit_mb(here: vm_lab.Host, machine: vm_lab.Machine) -> int:
    """Return what the machine's VMM may take."""
    return int(group_says(here, machine, _LIMITS)) >> 20


def mapped_bytes(here: vm_lab.Host, machine: vm_lab.Machine) -> int:
    """Return how much of its memory's file the machine's VMM holds."""
    pairs = [line.split() for line in group_says(here, machine, _STAT).splitlines()]
    return next(int(value) for name, value in pairs if name in _MAPPED)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lab.own_namespace
async def test_memory_grows_and_shrinks_within_its_bounds_and_the_vmms_limit_with_it():
    async with vm_lab.host() as here:
        machine = here.machine(5, resources=GROWING)
        await machine.boot()
        began_mb = await settled(machine, below_mb=257)
        assert began_mb > 180
        assert limit_mb(here, machine) == 256 + qemu.OVERHEAD_MB["tcg"] + 2

        await here.vmm.set_memory(machine.id, 512)
        assert limit_mb(here, machine) == 512 + qemu.OVERHEAD_MB["tcg"] + 2
        async with asyncio.timeout(240):
            while await total_mb(machine) <= began_mb + 200:
                await asyncio.sleep(0.1)
        assert await total_mb(machine) <= 512

        # A guest that is slow to give is not held to it yet, and asked again.
        async with asyncio.timeout(240):
            await here.vmm.set_memory(machine.id, 192)
            while limit_mb(here, machine) != 192 + qemu.OVERHEAD_MB["tcg"]:
                await here.vmm.set_memory(machine.id, 192)
        assert await total_mb(machine) < began_mb


@lab.own_namespace
async def test_what_is_reclaimed_goes_to_the_host_and_the_guest_may_have_it_again():
    async with vm_lab.host() as here:
        machine = here.machine(5, resources=GROWING)
        await machine.boot()
        began_mb = await settled(machine, below_mb=257)
        # What the guest caches of its disk it can spare.
        await machine.run("dd if=/dev/zero of=/big bs=1M count=100 conv=fsync")
        before = mapped_bytes(here, machine)
        taken_mb = await here.vmm.reclaim(machine.id, 96)
        assert 48 <= taken_mb <= 96
        # Of what was taken, that much had not been free: the host has it back.
        assert mapped_bytes(here, machine) < before - (8 << 20)
        async with asyncio.timeout(240):
            while await total_mb(machine) < began_mb - 4:
                await asyncio.sleep(0.2)


@lab.own_namespace
async def test_copies_of_one_template_change_their_memory_and_the_template_stays_as_it_is():
    async with vm_lab.host() as here:
        copies = here.templates()
        snapshot = await copies.make("org1", ports.Hardware.of(GROWING))
        assert snapshot.memory is not None
        before = digest(snapshot.memory)
        here.vmm = here.another_vmm(copies)
        machines = [here.machine(slot, resources=GROWING) for slot in (5, 6)]
        for machine in machines:
            status = await machine.boot()
            assert status.start_kind == "warm"
            await settled(machine, below_mb=257)
        await here.vmm.set_memory(machines[0].id, 128)
        await here.vmm.reclaim(machines[1].id, 64)
        assert (await machines[1].run("echo still here")).stdout == "still here\n"
        assert digest(snapshot.memory) == before


@lab.own_namespace
async def test_a_machine_that_may_not_grow_has_no_balloon_and_is_told_what_it_needs():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        await machine.boot()
        assert "virtio-balloon" not in " ".join(command_line(await status_of(machine)))
        for asked in (here.vmm.set_memory(machine.id, 128), here.vmm.reclaim(machine.id, 16)):
            with pytest.raises(errors.Failure) as refused:
                await asked
            assert refused.value.code == "failed_precondition"
            assert "guest.max_memory_mb" in refused.value.hint


async def status_of(machine: vm_lab.Machine) -> int:
    assert machine.session is not None
    pid = (await machine.session.status()).vmm_pid
    assert pid is not None
    return pid


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
