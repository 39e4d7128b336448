"""The process table is real here: programs are started under command lines like ours."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from godwit.agent.vmm import running

MACHINE = "148ed193b95948"
_WAIT = "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"


@pytest.fixture
async def start():
    """Start a program that does nothing until it is killed, with any arguments."""
    started = []

    async def go(*arguments: str) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _WAIT,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        await process.stdout.readexactly(2)
        return process.pid

    yield go
    for process in started:
        if process.returncode is None:
            process.stdin.close()
        await process.wait()


def config(machines: Path, machine_id: str = MACHINE) -> str:
    return str(machines / machine_id / "shim.json")


async def test_shims_are_found_by_their_configuration(start, tmp_path):
    pid = await start("--config", config(tmp_path))
    await start("--config", config(tmp_path / "other"))
    await start("--config", str(tmp_path / MACHINE / "edge.json"))
    await start("--config")
    assert running.shims(tmp_path) == {MACHINE: pid}
    assert running.is_shim(tmp_path, MACHINE)(pid)
    assert not running.is_shim(tmp_path, "ffffffffffffff")(pid)


async def test_a_vmm_is_known_by_name_and_user(start):
    pid = await start("-name", running.vm_name(MACHINE))
    mine = range(os.getuid(), os.getuid() + 1)
    assert running.is_vmm(MACHINE, mine)(pid)
    assert not running.is_vmm("ffffffffffffff", mine)(pid)
    assert not running.is_vmm(MACHINE, range(2_000_000, 3_000_000))(pid)


async def test_ending_kills_the_one_that_is_meant(start, tmp_path):
    meant = await start("--config", config(tmp_path))
    other = await start("--config", config(tmp_path, "ffffffffffffff"))
    await running.end(running.pids(), running.is_shim(tmp_path, MACHINE), within_s=5)
    assert running.command_line(meant) == []
    assert running.command_line(other) != []


async def test_ending_nobody_is_no_error(tmp_path):
    await running.end(running.pids(), running.is_shim(tmp_path, MACHINE), within_s=5)


async def test_a_pid_that_is_somebody_else_by_now_is_not_hit(start):
    bystander = await start("innocent")
    running.kill(bystander, lambda pid: False)
    assert running.command_line(bystander) != []


async def test_what_does_not_die_is_told(start):
    pid = await start("x")
    with pytest.raises(TimeoutError):
        await running.end([pid], lambda _: True, within_s=0.1)


async def test_alive_is_until_the_end_and_not_beyond(start):
    pid = await start("x")
    assert running.is_alive(pid)
    await running.end([pid], lambda p: p == pid and running.is_alive(p), within_s=5)
    assert not running.is_alive(pid)
    assert not running.is_alive(2**22 - 1)


def test_a_pid_that_is_gone_has_no_command_line():
    assert running.command_line(2**22 + 5) == []
    running.kill(2**22 - 1, lambda pid: True)


async def test_a_vmm_is_known_by_whatever_flag_its_program_has(start):
    name = running.vm_name(MACHINE)
    pid = await start("--id", name)
    mine = range(os.getuid(), os.getuid() + 1)
    assert running.is_vmm(MACHINE, mine, flag=b"--id")(pid)
    assert not running.is_vmm(MACHINE, mine)(pid)
    assert not running.is_vmm(MACHINE, range(1_000_000, 1_000_001), flag=b"--id")(pid)
    assert running.argument(pid, b"--id") == name.encode()
    assert running.argument(pid, b"-name") is None
