"""Guests that take all they can get, and what they get. Counters of the kernel, not stopwatches."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from godwit.agent import burst, meters
from godwit.agent.vmm import cgroups, qemu
from godwit.agent.vmm.hypervisor import Rates
from godwit.base import clock
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

BURNING = "while :; do :; done"
_PEAK = ("memory/{}/memory.max_usage_in_bytes", "{}/memory.peak")


def most_memory(here: vm_lab.Host, machine: vm_lab.Machine) -> int:
    """Return the most that a machine's VMM ever had, in bytes."""
    group = f"godwit/test-{here.places.run_dir.name}/{machine.id}"
    for form in _PEAK:
        path = cgroups.ROOT / form.format(group)
        if path.exists():
            return int(path.read_text())
    pytest.skip("this host does not count memory")


@lab.own_namespace
async def test_a_guest_that_burns_is_held_to_its_baseline_once_its_balance_is_spent():
    async with vm_lab.host() as here:
        machine = here.machine(5, script=BURNING)
        await machine.boot()
        bursts = burst.Bursts(here.groups, clock.SystemClock())
        bursts.follow(machine.id, "boot", machine.plan.resources)
        spent = await until(here, machine, bursts, lambda held_us: held_us > 1_000_000)
        # The initial balance was its own to spend.
        assert spent[0] > 0.8 * burst.INITIAL_US

        left_us = bursts.figures(machine.id).balance * 10_000
        held = here.groups.throttled_us(machine.id) + 5_000_000
        used_us, took_us = await until(here, machine, bursts, lambda held_us: held_us > held)
        allowed_us = left_us + burst.share(machine.plan.resources).of(took_us / 1e6)
        assert used_us < 1.3 * allowed_us + 100_000
        assert used_us < took_us / 2
        assert bursts.figures(machine.id).throttle > 500


async def until(
    here: vm_lab.Host,
    machine: vm_lab.Machine,
    bursts: burst.Bursts,
    enough: Callable[[int], bool],
) -> tuple[int, int]:
    """Hold a machine as the agent does until it was held back enough; return CPU and time."""
    began_us, began_s = here.groups.used_us(machine.id), time.monotonic()
    async with asyncio.timeout(400):
        while not enough(here.groups.throttled_us(machine.id)):
            bursts.look()
            await asyncio.sleep(0.2)
    used_us = here.groups.used_us(machine.id) - began_us
    return used_us, round((time.monotonic() - began_s) * 1e6)


@lab.own_namespace
async def test_a_guest_that_takes_all_memory_is_ended_inside_and_its_vmm_stays_within_its_limit():
    async with vm_lab.host() as here:
        machine = here.machine(5, script="tail /dev/zero")
        status = await machine.boot()
        limit = cgroups.limits(machine.plan.resources, qemu.OVERHEAD_MB["tcg"]).memory_bytes
        record = await machine.ended()
        assert record.guest is not None
        assert record.guest.oom_killed
        assert record.cause == "guest"
        assert record.vmm.exit_code == 0
        most = most_memory(here, machine)
        assert 200 << 20 < most < limit
        print(f"VMM {status.vmm_pid}: {(most >> 20) - 256} MB beyond the guest's 256")  # noqa: T201


@lab.own_namespace
async def test_a_guest_that_fills_its_disk_is_paced():
    rates = Rates(root_iops=0, root_bytes_s=1 << 20, root_burst_bytes=24 << 20)
    async with vm_lab.host(rates) as here:
        machine = here.machine(5)
        await machine.boot()
        script = (
            "read before rest < /proc/uptime;"
            "dd if=/dev/zero of=/big bs=64k count=480 conv=fsync 2>/dev/null;"
            "read after rest < /proc/uptime; echo $before $after; stat -c %s /big"
        )
        answer = await machine.run(script, timeout_s=120)
        before, after, size = answer.stdout.split()
        assert int(size) == 480 * 65_536
        # 30 MB, of which 24 at once at the most: the rest takes a second each.
        assert float(after) - float(before) > 5


@lab.own_namespace
async def test_a_rested_guest_reads_and_writes_its_burst_at_once():
    async with vm_lab.host(Rates(root_iops=100, root_bytes_s=1 << 16)) as here:
        machine = here.machine(5)
        await machine.boot()
        script = "dd if=/dev/zero of=/big bs=64k count=320 conv=fsync 2>/dev/null && echo done"
        # At the rate alone these 20 MB would take five minutes.
        answer = await machine.run(script, timeout_s=200)
        assert answer.stdout == "done\n"


@lab.own_namespace
async def test_a_guest_that_floods_the_network_is_paced_and_counted():
    async with vm_lab.host(mbit_each_way=8) as here:
        machine = here.machine(5, script=f"busybox nc {lab.WORLD_V4} 9000 < /dev/zero")
        with here.world.tcp(lab.WORLD_V4, 9000) as listener:
            await machine.boot()
            taken, _ = await asyncio.to_thread(listener.accept)
            with taken:
                began, received = time.monotonic(), 0
                async with asyncio.timeout(240):
                    while received < 500_000 or not await counted("paced_out"):
                        received += await asyncio.to_thread(receive, taken, seconds=4.0)
                took_s = time.monotonic() - began
        # A second's worth at once and 1 MB a second; a quarter more for what was under way.
        assert received < 1.25 * (1_256_000 + 1_000_000 * took_s)
        meter = meters.HostMeter(here.groups, here.places.machines)
        reading = meter.read({machine.id: 5})[machine.id]
        assert reading.bytes_out > received
        assert 0 < reading.bytes_in < reading.bytes_out
        assert reading.cpu_us > 0
        assert reading.disk_bytes > 0
        assert 0 not in (reading.cpu_of, reading.bytes_of)


async def counted(name: str) -> int:
    """Return how many packets a counter of the policy has seen."""
    listed = await lab.output("nft", "list", "counter", "inet", "godwit", name)
    return int(listed.split("packets")[1].split()[0])


def receive(taken: socket.socket, *, seconds: float) -> int:
    """Return how many bytes arrive in that time."""
    taken.settimeout(1)
    total, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            total += len(taken.recv(1 << 16))
        except TimeoutError:
            continue
    return total


@lab.own_namespace
async def test_shim_and_vmm_are_in_groups_of_their_own():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        status = await machine.boot()
        named = f"test-{here.places.run_dir.name}"
        shim_groups = groups_of(status.shim_pid)
        assert f"/godwit/{named}.shims/{machine.id}" in shim_groups
        assert f"/godwit/{named}/{machine.id}" in groups_of(status.vmm_pid)
        assert f"/godwit/{named}/" not in shim_groups
        await here.vmm.discard(machine.id, 5)
        assert here.groups.machines() == frozenset()


def groups_of(pid: int) -> str:
    """Return the groups a process is in."""
    return Path(f"/proc/{pid}/cgroup").read_text()
