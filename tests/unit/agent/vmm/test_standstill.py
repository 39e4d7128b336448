"""Processes that somebody stopped are found, and go on when they are told to."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from godwit.agent.vmm import cgroups, standstill

M = "0000000000000a"


async def until(directory: Path, groups: cgroups.Cgroups, found: set[str]) -> None:
    async with asyncio.timeout(60):
        while standstill.machines(directory, groups) != found:
            await asyncio.sleep(0.01)


async def test_a_stopped_process_of_a_machine_is_found_and_goes_on(tmp_path: Path) -> None:
    groups = cgroups.Cgroups("none", tmp_path / "no-cgroups")
    config = str(tmp_path / M / "shim.json")
    shim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(60)", "--config", config
    )
    try:
        await until(tmp_path, groups, set())
        os.kill(shim.pid, signal.SIGSTOP)
        await until(tmp_path, groups, {M})
        standstill.end(tmp_path, groups, M)
        await until(tmp_path, groups, set())
        assert shim.returncode is None
    finally:
        shim.kill()
        await shim.wait()


def test_a_machine_that_is_gone_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    standstill.end(tmp_path, cgroups.Cgroups("none", tmp_path / "no-cgroups"), M)
