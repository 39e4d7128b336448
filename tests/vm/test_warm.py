"""Warm starts, suspend and resume: copies of a template, and machines that go on where they were."""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import shutil
import signal
import socket
import struct
import time
from pathlib import Path

import pytest

from godwit.agent import ports, slots
from godwit.agent.vmm import hypervisor, running, turns
from godwit.base import errors
from godwit.wire import host_rpc
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

ORG = "org1"
SMALL = host_rpc.Resources(memory_mb=256)
AS_SMALL = ports.Hardware.of(SMALL)
_AT_RANDOM = (
    "busybox od -An -v -w16 -tx1 /proc/$$/auxv | while read -r line; do set -- $line;"
    ' [ "$1" = 19 ] || continue;'
    " busybox dd if=/proc/$$/mem bs=1 count=16"
    " skip=$((0x${16}${15}${14}${13}${12}${11}${10}$9)) 2>/dev/null | busybox od -An -tx1; done"
)


async def warm_host(here: vm_lab.Host) -> None:
    """Have the host start machines as copies from now on."""
    copies = here.templates()
    await copies.make(ORG, AS_SMALL)
    here.vmm = here.another_vmm(copies)


async def asked(machine: vm_lab.Machine, script: str) -> str:
    answer = await machine.run(script)
    assert answer.exit_code == 0, answer
    return answer.stdout.strip()


async def suspend(machine: vm_lab.Machine) -> None:
    """Suspend it as the agent does, with all that goes then."""
    await machine.host.vmm.suspend(machine.id, machine.plan.instance_id)
    await machine.close()
    await machine.host.vmm.discard(machine.id, machine.plan.slot, keep="all")


async def resume(machine: vm_lab.Machine):
    try:
        await machine.host.vmm.resume(machine.plan)
    except errors.Failure as error:
        raise AssertionError(f"{error}\n{machine.log()}") from error
    machine.session = await machine.host.vmm.connect(machine.id)
    return await machine.phase("running")


@lab.own_namespace
async def test_a_copy_is_a_machine_of_its_own():
    async with vm_lab.host() as here:
        await warm_host(here)
        machine = here.machine(5)
        late_s = -time.monotonic()
        status = await machine.boot()
        late_s += time.monotonic()
        assert status.start_kind == "warm"
        assert status.hello.boot_id == await asked(machine, "cat /proc/sys/kernel/random/boot_id")
        assert await asked(machine, "cat /etc/hostname; hostname") == f"{machine.id}\n{machine.id}"
        sizes = sorted(map(int, (await asked(machine, "cat /sys/block/vd*/size")).split()))
        bytes_of_disks = (here.image.stat().st_size, machine.plan.scratch_bytes)
        assert sizes == sorted(size // 512 for size in bytes_of_disks)
        assert await asked(machine, "cat /sys/class/net/eth0/address") == slots.guest_mac(5)
        source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        # Refined some time after the template was saved; a kernel that is emulated on a busy host
        # may find that it runs unevenly, and says so.
        if await asked(machine, f"cat {source}") not in ("tsc-early", "tsc"):
            assert "Marking TSC unstable" in await asked(machine, "busybox dmesg")
        began = time.time()
        then = int(await asked(machine, "sleep 2; busybox date +%s"))
        # On a busy host the word of the hour is late by as much as it took.
        assert began - late_s - 1 <= then <= time.time() + 1
        ping = f"busybox ping -c1 -W30 {lab.RESOLVER} && busybox ping -c1 -W30 {lab.WORLD_V4}"
        await asked(machine, ping)


@lab.own_namespace
async def test_copies_share_no_random_numbers():
    async with vm_lab.host() as here:
        await warm_host(here)
        machines = [here.machine(slot) for slot in range(5, 11)]
        kinds = [(await each.boot()).start_kind for each in machines]
        assert set(kinds) == {"warm"}
        for what in (
            "head -c 32 /dev/urandom | busybox od -An -tx1",
            "cat /proc/sys/kernel/random/boot_id",
            "cat /proc/sys/kernel/random/uuid",
            "cat /etc/machine-id",
            _AT_RANDOM,
        ):
            answers = [await asked(each, what) for each in machines]
            assert all(answers)
            assert len(set(answers)) == len(machines), (what, answers)


@lab.own_namespace
async def test_copies_share_no_tcp_secret():
    """A sequence number is a keyed hash of the addresses plus a clock: with one key for all copies
    those of the same addresses would differ by the time between them alone."""
    async with vm_lab.host() as here:
        await warm_host(here)
        seen = []
        for _ in range(3):
            machine = here.machine(5)
            assert (await machine.boot()).start_kind == "warm"
            with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as tap:
                tap.bind((machine.plan.tap, 0x0800))
                tap.settimeout(lab.PATIENCE_S)
                serve = "busybox nc -ll -p 7777 >/dev/null 2>&1 &"
                listens = (
                    "until busybox netstat -ltn | busybox grep -q ':7777 '; do sleep 0.1; done"
                )
                await asked(machine, f"{serve} {listens}")
                async with asyncio.TaskGroup() as both:
                    both.create_task(asyncio.to_thread(_dial, machine.four))
                    number = await asyncio.to_thread(_syn_of_answer, tap)
                    seen.append((time.time(), number))
            await machine.close()
            await here.vmm.discard(machine.id, 5)
        by_time_alone = []
        for (then, first), (now, second) in itertools.pairwise(seen):
            expected = int((now - then) * 1e9) >> 6
            apart = (second - first - expected) % (1 << 32)
            by_time_alone.append(min(apart, (1 << 32) - apart) < 15_625_000)
        assert not all(by_time_alone), seen


def _dial(address: str) -> None:
    """Connect from the same port as ever, and leave no trace that would forbid it next time."""
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.settimeout(lab.PATIENCE_S)
        caller.bind(("", 5555))
        caller.connect((address, 7777))


def _syn_of_answer(tap: socket.socket) -> int:
    """Return the sequence number with which the guest takes the connection."""
    while True:
        packet = tap.recv(2048)
        tcp = packet[(packet[0] & 15) * 4 :]
        from_port, to_port, number = struct.unpack("!HHI", tcp[:8])
        if (packet[9], from_port, to_port) == (socket.IPPROTO_TCP, 7777, 5555):
            return number


@lab.own_namespace
async def test_a_template_that_is_no_good_costs_a_boot_and_then_itself():
    async with vm_lab.host() as here:
        await warm_host(here)
        (state,) = here.places.templates.glob("*/state")
        whole = state.read_bytes()
        state.write_bytes(whole[: len(whole) // 2])
        for slot in (5, 6):
            machine = here.machine(slot)
            assert (await machine.boot()).start_kind == "cold"
        assert list(here.places.templates.iterdir()) == []


@lab.own_namespace
async def test_an_organization_starts_from_its_own_template_only():
    async with vm_lab.host() as here:
        await warm_host(here)
        other = here.machine(5, network=2)
        assert (await other.boot()).start_kind == "cold"
        await here.vmm.close()


@lab.own_namespace
async def test_machines_that_all_boot_at_once_do_so_in_turn_and_the_first_makes_a_template():
    async with vm_lab.host() as here:
        at_once = turns.Turns(1)
        copies = here.templates(at_once)
        here.vmm = here.another_vmm(copies)
        machines = [here.machine(slot) for slot in (5, 6, 7)]
        first = asyncio.get_running_loop().create_task(machines[0].boot())
        while at_once.held(machines[0].id) is None:
            await asyncio.sleep(0.01)
        others = await asyncio.gather(*(each.boot() for each in machines[1:]))
        assert (await first).start_kind == "cold"
        assert [status.start_kind for status in others] == ["warm", "warm"]
        assert all(at_once.held(each.id) is None for each in machines)
        await here.vmm.close()


@lab.own_namespace
async def test_many_copies_at_once_all_come_up():
    async with vm_lab.host() as here:
        await warm_host(here)
        machines = [here.machine(slot) for slot in range(5, 15)]
        for first in range(0, len(machines), 5):
            group = machines[first : first + 5]
            started = await asyncio.gather(*(each.boot() for each in group))
            assert [status.start_kind for status in started] == ["warm"] * 5
        assert {await asked(each, "hostname") for each in machines} == {m.id for m in machines}


@lab.own_namespace
@pytest.mark.parametrize("suspendable", [False, True])
async def test_a_suspended_machine_goes_on_where_it_was(suspendable):
    async with vm_lab.host() as here:
        await warm_host(here)
        script = (
            "echo up; n=0; while :; do n=$((n+1));"
            " echo $n >/new; busybox mv /new /count; sleep 0.1; done"
        )
        machine = here.machine(5, script=script)
        machine.plan = dataclasses.replace(machine.plan, suspendable=suspendable)
        before = await machine.boot()
        await asked(machine, "echo kept >/memo; echo fresh >/dev/shm/memo")
        await asked(machine, "until [ -e /count ]; do sleep 0.1; done")
        for _ in range(2):
            awake_s = -time.monotonic()
            counted = int(await asked(machine, "cat /count"))
            await suspend(machine)
            awake_s += time.monotonic()
            assert await here.vmm.observed() == frozenset()
            assert await here.vmm.has_snapshot(machine.id, "01K8")
            assert not await here.vmm.has_snapshot(machine.id, "01K9")
            await asyncio.sleep(2)
            awake_s -= time.monotonic()
            late_s = -time.monotonic()
            status = await resume(machine)
            assert status.start_kind == "resumed"
            assert status.process_pid == before.process_pid
            assert status.hello.boot_id == before.hello.boot_id
            now = int(await asked(machine, "cat /count"))
            awake_s += time.monotonic()
            late_s += time.monotonic()
            # Ten a second at the most, and none while it was away.
            assert counted <= now <= counted + 10 * awake_s + 1
            began = time.time()
            then = int(await asked(machine, "busybox date +%s"))
            # The word of the hour is late by as much as it took to come.
            assert began - late_s - 1 <= then <= time.time() + 1
            assert await asked(machine, "cat /memo /dev/shm/memo") == "kept\nfresh"
            await asked(machine, f"busybox ping -c1 -W30 {lab.WORLD_V4}")
            assert not await here.vmm.has_snapshot(machine.id, "01K8")
        assert machine.log().count('"m":"up"') == 1
        await machine.session.stop("SIGKILL", 1000)
        record = await machine.ended()
        assert record.guest.exit_code == 137
        assert record.start_kind == "resumed"


@lab.own_namespace
async def test_two_lives_of_one_saved_state_share_no_random_numbers():
    async with vm_lab.host() as here:
        await warm_host(here)
        machine = here.machine(5)
        await machine.boot()
        await suspend(machine)
        saved, kept = here.places.directory(machine.id), here.places.run_dir / "kept"
        shutil.copytree(saved, kept)
        said = []
        for _ in range(2):
            await resume(machine)
            said.append(await asked(machine, "head -c 32 /dev/urandom | busybox od -An -tx1"))
            await machine.close()
            await here.vmm.discard(machine.id, machine.plan.slot)
            shutil.rmtree(saved)
            shutil.copytree(kept, saved)
        shutil.rmtree(kept)
        assert said[0]
        assert said[0] != said[1]


@lab.own_namespace
async def test_a_state_that_cannot_be_used_is_told_and_the_disk_is_still_there():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        await machine.boot()
        await asked(machine, "echo kept >/memo; sync")
        await suspend(machine)
        state = here.places.directory(machine.id) / "snapshot" / "state"
        with state.open("r+b") as file:
            file.truncate(1 << 20)
        with pytest.raises(errors.Failure, match="damaged") as caught:
            await here.vmm.resume(machine.plan)
        assert caught.value.code == "failed_precondition"
        assert await here.vmm.observed() == frozenset()
        machine.plan = dataclasses.replace(machine.plan, keep_scratch=True)
        await here.vmm.prepare(machine.plan)
        await here.vmm.spawn(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        await machine.phase("running")
        assert await asked(machine, "cat /memo") == "kept"


@lab.own_namespace
async def test_a_guest_that_cannot_be_asked_is_not_suspended_and_runs_on():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        status = await machine.boot()
        os.kill(status.vmm_pid, signal.SIGSTOP)
        with pytest.raises(errors.Failure, match="does not answer") as caught:
            await here.vmm.suspend(machine.id, "01K8")
        assert caught.value.code == "failed_precondition"
        os.kill(status.vmm_pid, signal.SIGCONT)
        assert not await here.vmm.has_snapshot(machine.id, "01K8")
        async with asyncio.timeout(240):
            while not await _answers(machine):
                await asyncio.sleep(0.1)
        await suspend(machine)
        await resume(machine)
        assert await asked(machine, "echo on") == "on"


async def _answers(machine: vm_lab.Machine) -> bool:
    """Tell whether it runs commands; one that is asked while its channel is made again does not."""
    try:
        return (await machine.run("echo on", timeout_s=30)).stdout == "on\n"
    except errors.Failure:
        return False


@lab.own_namespace
async def test_a_template_in_the_making_dies_with_its_maker_and_is_swept():
    async with vm_lab.host() as here:
        maker = os.fork()
        if maker == 0:
            asyncio.set_event_loop(None)
            making = here.templates()
            # It is never done, however fast this host is and how late the maker is killed.
            making._vmm.save = _never
            try:
                asyncio.run(making.make(ORG, AS_SMALL))
            finally:
                os._exit(1)
        async with asyncio.timeout(240):
            while not (vmms := _vmms_of_templates()):
                await asyncio.sleep(0.02)
        os.kill(maker, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, maker, 0)
        async with asyncio.timeout(240):
            while any(running.is_alive(pid) for pid in vmms):
                await asyncio.sleep(0.02)
        assert list(here.places.templates.glob("making-*"))
        await here.templates().make(ORG, AS_SMALL)
        assert [each.suffix != "" for each in here.places.templates.iterdir()] == [True]
        assert here.groups.machines() == frozenset()
        assert list(here.places.sockets.iterdir()) == []


async def _never(monitor: Path, into: hypervisor.Snapshot) -> hypervisor.Snapshot:
    del monitor
    await asyncio.Event().wait()
    return into


def _vmms_of_templates() -> list[int]:
    """Return those of this host: on the same machine other tests may have some, too."""
    return [
        pid
        for pid in running.pids()
        if any(word.startswith(b"godwit-template-") for word in running.command_line(pid))
        and _network_of(str(pid)) == _network_of("thread-self")
    ]


def _network_of(process: str) -> Path | None:
    with contextlib.suppress(OSError):
        return (Path("/proc") / process / "ns/net").readlink()
    return None
