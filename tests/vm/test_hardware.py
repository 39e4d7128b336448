"""What a VM is made as: swap, cache, kernel arguments, a root that lasts; booted and as a copy."""

import dataclasses

import pytest

from godwit.agent import ports
from godwit.wire import host_rpc
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.guest import make_image

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

SIZE = host_rpc.Resources(memory_mb=256)
SWAP_MB = 256
CACHE_MB = 64
MORE_THAN_ITS_MEMORY = (
    "busybox mount -t tmpfs -o size=400m none /tmp"
    " && busybox dd if=/dev/zero of=/tmp/much bs=1M count=280 2>/dev/null"
    " && busybox grep SwapFree /proc/meminfo"
)


@lab.own_namespace
async def test_a_machine_swaps_what_its_memory_does_not_hold():
    async with vm_lab.host() as here:
        copies = here.templates()
        machine = here.machine(5, resources=SIZE, swap_bytes=SWAP_MB << 20)
        without = here.machine(6, resources=SIZE)
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            total = (await machine.run("grep SwapTotal /proc/meminfo")).stdout.split()[1]
            assert int(total) == SWAP_MB * 1024 - 4
            filled = await machine.run(MORE_THAN_ITS_MEMORY, timeout_s=120)
            assert filled.exit_code == 0, (filled, machine.log())
            assert int(filled.stdout.split()[1]) < (SWAP_MB - 30) * 1024
            await machine.close()
            await here.vmm.discard(machine.id, machine.plan.slot)
            assert not here.places.swap(machine.id).exists()
            await copies.make(machine.plan.org_id, machine.plan.hardware)
            here.vmm = here.another_vmm(copies)
        # A template with a swap disk is none of a machine without.
        assert copies.take(without.plan.org_id, ports.Hardware.of(SIZE)) is None
        assert (await without.boot()).start_kind == "cold"
        assert (await without.run("cat /proc/swaps | wc -l")).stdout.strip() == "1"
        await copies.close()


@lab.own_namespace
async def test_a_cache_drive_is_everybodys_fresh_at_a_boot_and_there_after_a_resume():
    async with vm_lab.host() as here:
        copies = here.templates()
        machine = here.machine(5, resources=SIZE, cache_bytes=CACHE_MB << 20)
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            look = "stat -c %a /.fly/cache; ls /.fly/cache | busybox grep -vx lost+found | wc -l"
            assert (await machine.run(look)).stdout.split() == ["1777", "0"]
            size = (await machine.run("busybox df -m /.fly/cache | tail -n 1")).stdout.split()
            assert CACHE_MB * 0.9 < int(size[1]) <= CACHE_MB, size
            wrote = await machine.run("echo kept >/.fly/cache/made", user="app")
            assert wrote.exit_code == 0, (wrote, machine.log())
            if kind == "cold":
                await machine.close()
                await here.vmm.discard(machine.id, machine.plan.slot)
                assert not here.places.cache(machine.id).exists()
                await copies.make(machine.plan.org_id, machine.plan.hardware)
                here.vmm = here.another_vmm(copies)
        await machine.close()
        await here.vmm.suspend(machine.id, machine.plan.instance_id)
        await here.vmm.discard(machine.id, machine.plan.slot, keep="all")
        await here.vmm.resume(machine.plan)
        machine.session = await here.vmm.connect(machine.id)
        await machine.phase("running")
        assert (await machine.run("cat /.fly/cache/made")).stdout == "kept\n"
        await copies.close()


@lab.own_namespace
async def test_a_kernel_is_booted_with_the_machines_arguments_and_copied_with_them():
    async with vm_lab.host() as here:
        copies = here.templates()
        machine = here.machine(5, resources=SIZE, kernel_arguments=("debug", "a.b=1"))
        for kind in ("cold", "warm"):
            assert (await machine.boot()).start_kind == kind
            told = (await machine.run("cat /proc/cmdline")).stdout.split()
            assert told[-2:] == ["debug", "a.b=1"]
            await machine.close()
            await here.vmm.discard(machine.id, machine.plan.slot)
            await copies.make(machine.plan.org_id, machine.plan.hardware)
            here.vmm = here.another_vmm(copies)
        assert copies.take(machine.plan.org_id, ports.Hardware.of(SIZE)) is None
        await copies.close()


@lab.own_namespace
async def test_a_root_that_lasts_holds_what_was_written_before_its_machine_ended():
    async with vm_lab.host() as here:
        machine = here.machine(5, resources=SIZE, lasting_root=True)
        copies = here.templates()
        await machine.boot()
        wrote = await machine.run(
            "echo written >/srv/unsynced; rm /srv/dos; echo changed >/srv/plain;"
            " busybox dd if=/dev/zero of=/srv/much bs=1M count=40 2>/dev/null"
        )
        assert wrote.exit_code == 0, wrote
        await machine.session.stop("SIGKILL", 1_000)
        assert (await machine.ended()).guest.exit_code == 137
        await machine.close()

        # As a copy, over another image.
        await copies.make(machine.plan.org_id, machine.plan.hardware)
        here.vmm = here.another_vmm(copies)
        folder = here.image.with_name("newer")
        newer = make_image(folder, {"srv/new": "newer", "srv/plain": "newer"})
        machine.plan = dataclasses.replace(machine.plan, image=newer)
        assert (await machine.boot()).start_kind == "warm"
        read = await machine.run(
            "cat /srv/unsynced /srv/plain /srv/new; ls /srv; busybox wc -c </srv/much"
        )
        words = ["written", "changed", "newer", "much", "new", "plain", "unsynced", "41943040"]
        assert read.stdout.split() == words, (read, machine.log())

        # Killed: what was synced is there, and the file system is whole.
        await machine.run("echo kept >/srv/kept; sync; echo late >/srv/late")
        await machine.close()
        await here.vmm.discard(machine.id, machine.plan.slot, keep="root")
        assert (await machine.boot()).start_kind == "warm"
        assert (await machine.run("cat /srv/kept")).stdout == "kept\n"
        await copies.close()
