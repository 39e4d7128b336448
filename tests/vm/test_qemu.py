"""Machines through `HostVmm` and `HostNetwork`, as the agent drives them."""

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.vmm import driver, running
from godwit.base import errors, processes
from godwit.wire import channel, host_rpc, shim
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def open_files(pid: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


def one_line(listener: socket.socket) -> tuple[bytes, str]:
    """Return what the first client says and where it comes from."""
    taken, sender = listener.accept()
    taken.settimeout(lab.PATIENCE_S)
    with taken:
        return taken.recv(100), sender[0]


async def served(address: str, port: int) -> bytes:
    """Return what a server says, once there is one."""
    async with asyncio.timeout(240):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection(address, port)
                said = await reader.read()
                writer.close()
                return said
            await asyncio.sleep(0.1)


@lab.own_namespace
async def test_a_machine_lives_confined_and_leaves_nothing():
    async with vm_lab.host() as here:
        machine = here.machine(5, resources=host_rpc.Resources(memory_mb=512, cpus=2))
        status = await machine.boot()
        assert await here.vmm.observed() == {machine.id}

        vmm = process_status(status.vmm_pid)
        assert vmm["Uid"].split() == ["2000005"] * 4
        assert vmm["Gid"].split() == ["2000005"] * 4
        assert vmm["Groups"] == ""
        assert int(vmm["CapEff"], 16) == int(vmm["CapPrm"], 16) == 0
        assert vmm["NoNewPrivs"] == "1"
        assert vmm["Seccomp"] == "2"
        assert here.groups.members(machine.id) == {status.vmm_pid}
        names = open_files(status.vmm_pid)
        assert names
        assert not any(name.endswith(("shim.json", ".sock")) for name in names)
        assert not any("run-spec" in name for name in names), "that is the shim's alone"

        answer = await machine.run(
            "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo;"
            "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; touch /new && echo writable"
        )
        cpus, memory, mac, mtu, writable = answer.stdout.split()
        assert cpus == "2"
        assert 400_000 < int(memory) <= 512 * 1024
        assert (mac, mtu, writable) == ("02:67:00:00:00:05", "1420", "writable")

        directory = here.places.machines / machine.id
        assert not (directory / "run.json").exists(), "what init is told lies on no disk"
        for name in ("shim.json", "scratch.ext4"):
            assert (directory / name).stat().st_mode & 0o077 == 0
        with pytest.raises(errors.Failure, match="still runs"):
            await here.vmm.prepare(machine.plan)

        await here.vmm.discard(machine.id, 5)
        record = await here.vmm.exit_record(machine.id, "01K8")
        assert record is not None
        assert record.cause == "killed"
        assert await here.vmm.exit_record(machine.id, "another boot") is None
        assert await here.vmm.observed() == frozenset()
        assert not running.is_alive(status.vmm_pid)
        assert here.groups.machines() == frozenset()
        assert list(here.places.sockets.iterdir()) == []
        assert here.vmm.logs_directory(machine.id).is_dir()
        assert not (directory / "scratch.ext4").exists()
        await here.vmm.discard(machine.id, 5)
        await here.vmm.forget(machine.id)
        assert not directory.exists()
        await here.vmm.forget(machine.id)


@lab.own_namespace
async def test_a_guest_reaches_its_gateway_its_neighbours_and_the_world():
    async with vm_lab.host() as here:
        one, two = here.machine(5, network=1), here.machine(6, network=1)
        await one.boot()
        await two.boot()
        pings = await one.run(
            f"for a in {lab.GATEWAY_V4} {lab.RESOLVER} {two.six} {lab.WORLD_V4} {lab.WORLD_V6};"
            "do busybox ping -c1 -W30 $a >/dev/null && echo $a; done"
        )
        assert pings.stdout.split() == [
            lab.GATEWAY_V4,
            lab.RESOLVER,
            two.six,
            lab.WORLD_V4,
            lab.WORLD_V6,
        ]
        for world, host in ((lab.WORLD_V4, lab.HOST_V4), (lab.WORLD_V6, lab.HOST_V6)):
            with here.world.tcp(world, 9000) as outside:
                _, heard = await asyncio.gather(
                    one.run(f"echo out | busybox nc {world} 9000"),
                    asyncio.to_thread(one_line, outside),
                )
            assert heard == (b"out\n", host)
        await two.run(
            "printf '#!/bin/sh\\necho served\\n' >/serve; chmod +x /serve;"
            "busybox nc -ll -p 8080 -e /serve >/dev/null 2>&1 </dev/null &"
        )
        for address in (two.four, two.six):
            assert await served(address, 8080) == b"served\n"


@lab.own_namespace
async def test_stop_signal_and_exit_code_are_told():
    async with vm_lab.host() as here:
        machine = here.machine(
            5, script="trap 'echo got it; exit 17' INT; echo up; while :; do sleep 0.1; done"
        )
        await machine.boot()
        await machine.says("up")
        await machine.session.stop("SIGINT", 10_000)
        record = await machine.ended()
        assert record.cause == "guest"
        assert record.guest == shim.GuestExit(exit_code=17)
        assert '"got it"' in machine.log()
        assert await here.vmm.connect(machine.id) is None
        async with asyncio.timeout(120):
            while await here.vmm.observed():
                await asyncio.sleep(0.01)


@lab.own_namespace
async def test_a_killed_vmm_is_seen_and_reported():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        status = await machine.boot()
        os.kill(status.vmm_pid, signal.SIGKILL)
        record = await machine.ended()
        assert record.cause == "vmm"
        assert record.vmm == shim.VmmExit(signal=9)
        assert record.guest is None


@lab.own_namespace
async def test_a_killed_shim_leaves_no_vm_behind():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        status = await machine.boot()
        os.kill(status.shim_pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            async for _ in machine.session.changes():
                pass
            while running.is_alive(status.shim_pid) or running.is_alive(status.vmm_pid):
                await asyncio.sleep(0.01)
        assert await here.vmm.connect(machine.id) is None
        assert await here.vmm.observed() == frozenset()
        assert await here.vmm.exit_record(machine.id, "01K8") is None
        await here.vmm.discard(machine.id, 5)
        await machine.close()
        again = await machine.boot()
        assert again.shim_pid != status.shim_pid


@lab.own_namespace
async def test_a_restarted_agent_finds_its_machines():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        status = await machine.boot()
        await machine.close()
        later = here.another_vmm()
        assert await later.observed() == {machine.id}
        await later.spawn(machine.plan)
        session = await later.connect(machine.id)
        assert session is not None
        now = await session.status()
        assert (now.vmm_pid, now.shim_pid) == (status.vmm_pid, status.shim_pid)
        assert now.phase == "running"
        await session.close()
        await later.discard(machine.id, 5)


@lab.own_namespace
async def test_commands_run_with_and_without_a_terminal():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        await machine.boot()

        failed = await machine.run("echo out; echo err >&2; exit 3")
        assert (failed.exit_code, failed.stdout, failed.stderr) == (3, "out\n", "err\n")
        killed = await machine.run("kill -TERM $$")
        assert (killed.exit_code, killed.exit_signal) == (143, 15)
        counted = await machine.run("wc -c", stdin="x" * 700_000)
        assert counted.stdout.strip() == "700000"
        long = await machine.run("yes | head -c 1000000")
        assert long.exit_code == 0
        assert long.stdout.count("y") >= 65_536
        assert "[cut" in long.stdout
        with pytest.raises(errors.Failure) as late:
            await machine.run("sleep 777", timeout_s=1)
        assert late.value.code == "deadline_exceeded"
        gone = await machine.run("ps | grep 'sleep 77[7]' || echo gone")
        assert gone.stdout == "gone\n"
        request = host_rpc.ExecRequest(machine_id=machine.id, command=("no-such-program",))
        with pytest.raises(errors.Failure) as wrong:
            await machine.session.exec(request, {})
        assert wrong.value.code == "invalid_argument"

        environment = {"PATH": vm_lab.PATH, "TERM": "xterm"}
        size = ports.Window(40, 100)
        shell = await machine.session.open_exec(("sh",), environment, user="app", tty=size)
        said = b""

        async def until(text: bytes) -> None:
            nonlocal said
            async with asyncio.timeout(120):
                while text not in said:
                    chunk = await shell.read()
                    assert chunk is not None, said
                    assert chunk.kind == channel.Kind.STDOUT
                    said += chunk.data

        await shell.write(b"stty size; id -un; echo do''ne\n")
        await until(b"done\r\n")
        assert b"40 100" in said
        assert b"app" in said
        await shell.resize(ports.Window(50, 132))
        await shell.write(b"stty size\n")
        await until(b"50 132")
        await shell.write(b"/bin/busybox sh -c 'echo slee\"\"ping; exec sleep 500'\n")
        await until(b"sleeping")
        await shell.write(b"\x03")
        await shell.write(b"echo interr''upted; exit 9\n")
        await until(b"interrupted")
        while await shell.read() is not None:
            pass
        assert (await shell.wait()).exit_code == 9


@lab.own_namespace
async def test_many_commands_at_once_keep_apart():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        await machine.boot()
        answers = await asyncio.gather(*(machine.run(f"echo {n}; exit {n}") for n in range(12)))
        assert [(a.exit_code, a.stdout) for a in answers] == [(n, f"{n}\n") for n in range(12)]


@lab.own_namespace
async def test_an_image_that_is_none_is_told_by_the_guest(tmp_path):
    async with vm_lab.host() as here:
        broken = tmp_path / "broken.erofs"
        broken.write_bytes(os.urandom(1 << 20))
        machine = here.machine(5, image=broken)
        with pytest.raises(AssertionError, match="never was running"):
            await machine.boot()
        record = await here.vmm.exit_record(machine.id, "01K8")
        assert record is not None
        assert record.guest is None
        assert record.failure is not None
        assert record.failure.message


@lab.own_namespace
async def test_a_shim_that_does_not_come_up_is_a_failure_and_leaves_nothing(tmp_path):
    async with vm_lab.host() as here:
        broken = tmp_path / "godwit-shim"
        broken.write_text("#!/bin/sh\necho something is wrong >&2\nexit 1\n")
        broken.chmod(0o755)
        here.places = driver.Places(here.places.store, here.places.run_dir, broken)
        vmm = here.another_vmm()
        machine = here.machine(5)
        await here.network.plumb(machine.plumbing)
        await vmm.prepare(machine.plan)
        with pytest.raises(errors.Failure, match="something is wrong") as caught:
            await vmm.spawn(machine.plan)
        assert caught.value.code == "unavailable"
        await vmm.discard(machine.id, 5)
        assert here.groups.machines() == frozenset()
        assert list(here.places.sockets.iterdir()) == []


@lab.own_namespace
async def test_a_full_disk_of_the_host_fails_the_guests_writes_and_no_more():
    """Not QEMU's way, which is to stop the guest until somebody makes room and says so."""
    async with vm_lab.host() as here:
        machine = here.machine(5)
        where = str(here.places.machines)
        here.places.machines.mkdir(parents=True, exist_ok=True)
        await processes.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", where])
        try:
            await machine.boot()
            filled = await machine.run(
                "dd if=/dev/zero of=/fill bs=1M count=120 conv=fsync >/dev/null 2>&1; echo $?",
                timeout_s=120,
            )
            assert filled.stdout.strip() != "0"
            assert (await machine.run("echo alive")).stdout == "alive\n"
        finally:
            await here.vmm.discard(machine.id, 5)
            await processes.run(["umount", "--lazy", where])
