"""What goes wrong beside the agent with real VMs: shims killed, VMMs stopped, init attacked."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from godwit.agent.vmm import driver, initramfs, running
from godwit.base import errors, processes
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.test_agent import Life, M, host, life

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


def shim_pid(here: vm_lab.Host) -> int:
    return running.shims(here.places.machines)[M]


def is_stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def leave_memory(here: vm_lab.Host, spare: int) -> None:
    """Give the machine's VMM so many bytes more than it has, as if it needed more than counted."""
    for limit, usage in (
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.max", "memory.current"),
    ):
        # Of this host alone: others on this machine may have a machine of that name, too.
        group = f"godwit/test-{here.places.run_dir.name}/{M}"
        for path in Path("/sys/fs/cgroup").glob(f"**/{group}/{limit}"):
            path.write_text(str(int(path.with_name(usage).read_text()) + spare))


async def answers(agent: Life) -> bool:
    """Tell whether a command in the machine comes through."""
    answer = await agent.call("machine.exec", machine_id=M, command=["true"], timeout_s=120)
    return bool(answer["exit_code"] == 0)


async def is_reached(agent: Life) -> None:
    """Return once the machine's address answers this host: a refusal is an answer, too."""
    address = (await agent.view())["private_ip"]
    async with asyncio.timeout(120):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, 9)
            except ConnectionRefusedError:
                return
            except OSError:
                await asyncio.sleep(0.2)
                continue
            writer.close()
            return


@lab.own_namespace
async def test_a_killed_shim_takes_its_vm_along_and_the_machine_comes_back() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        before = agent.vmm_pid()
        os.kill(shim_pid(here), signal.SIGKILL)
        await agent.now("restarting")
        view = await agent.now("started")
        assert agent.vmm_pid() != before
        (ended,) = [event for event in view["events"] if event["type"] == "exit"]
        assert ended["request"]["exit_event"]["requested_stop"] is False
        assert await answers(agent)


@pytest.mark.parametrize("part", ["vmm", "shim"])
def test_what_somebody_stopped_goes_on_at_the_second_look(part: str) -> None:
    async def body() -> None:
        async with host() as here, life(here) as agent:
            await agent.create()
            await agent.reach("started")
            pid = agent.vmm_pid() if part == "vmm" else shim_pid(here)
            os.kill(pid, signal.SIGSTOP)
            # Each of its threads stops when it is next looked at.
            async with asyncio.timeout(120):
                while await here.vmm.halted() != {M}:
                    await asyncio.sleep(0.02)
            await agent.app.machines.mend()
            assert is_stopped(pid)
            await agent.app.machines.mend()
            assert not is_stopped(pid)
            assert await answers(agent)
            assert (await agent.view())["state"] == "started"

    lab.own_namespace(body)()


@lab.own_namespace
async def test_a_stopped_vmm_is_still_ended_by_a_stop() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        os.kill(agent.vmm_pid(), signal.SIGSTOP)
        await agent.call("machine.stop", machine_id=M, timeout_ms=500)
        await agent.now("stopped")
        assert await here.vmm.observed() == frozenset()
        assert here.groups.members(M) == frozenset()


@lab.own_namespace
async def test_a_guests_root_cannot_kill_its_init_and_a_panic_is_reported_and_made_good() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        before = agent.vmm_pid()
        await agent.call(
            "machine.exec",
            machine_id=M,
            command=["sh", "-c", "kill -KILL 1; kill -SEGV 1; kill -TERM 1; kill -STOP 1; true"],
            timeout_s=120,
        )
        assert await answers(agent)
        assert agent.vmm_pid() == before
        panic = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"
        with contextlib.suppress(errors.Failure, OSError):
            await agent.call(
                "machine.exec", machine_id=M, command=["sh", "-c", panic], timeout_s=120
            )
        async with asyncio.timeout(120):
            while "exit" not in [event["type"] for event in (await agent.view())["events"]]:
                await asyncio.sleep(0.1)
        view = await agent.now("started")
        (ended,) = [event for event in view["events"] if event["type"] == "exit"]
        assert ended["request"]["exit_event"]["restarting"] is True
        assert agent.vmm_pid() != before
        assert await here.vmm.observed() == {M}


@lab.own_namespace
async def test_a_tap_that_vanished_is_noticed_and_the_machine_has_a_network_again() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        slot = agent.app.machines.find(M).machine.slot  # type: ignore[union-attr]
        await processes.run(["ip", "link", "delete", f"gw{slot}"], timeout_s=20)
        await agent.app.machines.mend()
        await agent.now("restarting")
        await agent.now("started")
        assert await here.network.observed() == {slot}
        await is_reached(agent)


@lab.own_namespace
async def test_a_flushed_packet_policy_is_made_again_with_the_running_machines() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        await processes.run(["nft", "flush", "ruleset"], timeout_s=20)
        assert not await here.network.intact()
        await agent.app.machines.mend()
        assert await here.network.intact()
        await is_reached(agent)
        assert (await agent.view())["state"] == "started"


@lab.own_namespace
async def test_a_vmm_that_the_kernel_kills_for_want_of_memory_is_told_apart() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        leave_memory(here, 8 << 20)
        with contextlib.suppress(errors.Failure):
            hungry = ["sh", "-c", "head -c 120000000 /dev/zero | tail"]
            await agent.call("machine.exec", machine_id=M, command=hungry, timeout_s=300)
        await agent.now("restarting")
        view = await agent.now("started")
        (ended,) = [event for event in view["events"] if event["type"] == "exit"]
        assert ended["request"]["exit_event"]["oom_killed"] is True
        assert await answers(agent)


def silent_guest() -> bytes:
    """Return an initramfs whose first process says nothing to anybody."""
    return initramfs.archive(
        [
            initramfs.directory("bin"),
            initramfs.directory("dev"),
            initramfs.character_device("dev/console", 5, 1),
            initramfs.file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755),
            initramfs.file("init", b"#!/bin/busybox sh\nexec /bin/busybox sleep 1000\n", 0o755),
        ]
    )


@lab.own_namespace
async def test_a_guest_that_never_says_hello_is_ended_and_said_to_be_silent() -> None:
    async with host() as here:
        kit = here.places.run_dir / "silent.cpio"
        kit.write_bytes(silent_guest())
        here.kit = replace(here.kit, initramfs=kit)
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(driver._BOOT_DEADLINE_MS, "cold", 6_000)
            async with life(here) as agent:
                await agent.create()
                view = await agent.now("failed")
                assert "did not say hello in time" in view["sentence"]
                assert await here.vmm.observed() == frozenset()
        kit.unlink()
