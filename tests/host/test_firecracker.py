"""The real Firecracker, where one is on the PATH: the playbook of the fake, and its own words.

None of this needs a guest to get anywhere; what needs `/dev/kvm` says so when it skips.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from godwit.agent.vmm.firecracker import api, programs
from godwit.base import settings
from tests.unit.agent.vmm.firecracker import playbook

FIRECRACKER = shutil.which("firecracker")
KERNELS = settings.from_process().paths.cache / "guest" / "kernel"
pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(FIRECRACKER is None, reason="no firecracker on the PATH"),
]


class Process:
    """One real process in a folder."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.process = process

    async def says(self) -> str:
        """Return everything it said, once it has ended."""
        async with asyncio.timeout(120):
            said, _ = await self.process.communicate()
        return said.decode()

    async def play(self, lines) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(self.folder / "api.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for line in lines:
                method, path = line.request.split(" ")
                content = line.content or None
                answer = await client.request(method, path, content=content, timeout=20)
                text = answer.text.replace('\\"', '"')
                assert answer.status_code == line.status, (line, text)
                assert line.words in text, (line, text)


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    assert FIRECRACKER is not None
    (folder / "api.sock").unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(FIRECRACKER, "--id", "test", "--api-sock", "api.sock", *arguments),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(120):
            while process.returncode is None and not await api.listens(folder / "api.sock"):
                await asyncio.sleep(0.01)
        yield Process(folder, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def kernel() -> bytes:
    found = sorted(KERNELS.glob("*/vmlinux"))
    if not found:
        pytest.skip("the guest kernel is not here: `godwit doctor` makes it")
    return found[-1].read_bytes()


async def test_its_version_and_format_are_read():
    found = await programs.find()
    assert found.version.count(".") == 2
    assert found.snapshot_version.count(".") == 2
    assert found.build().startswith(f"firecracker-{found.version}-s{found.snapshot_version}-")


@pytest.mark.parametrize("scene", playbook.BEFORE, ids=lambda scene: scene.__name__)
async def test_it_plays_every_scene_before_a_start(tmp_path, scene):
    playbook.furnish(tmp_path)
    async with running(tmp_path) as here:
        await here.play(scene())
        if scene.__name__ in playbook.ENDING:
            await here.says()
            assert here.process.returncode == 1
        else:
            assert here.process.returncode is None


async def started(here: Process) -> None:
    """Play the start, or skip where this KVM makes no machine."""
    lines = list(playbook.started())
    at = next(i for i, line in enumerate(lines) if "InstanceStart" in json.dumps(line.body))
    await here.play(lines[:at])
    async with api.Api.open(here.folder / "api.sock") as asked:
        try:
            await asked.start()
        except api.Fault as fault:
            pytest.skip(f"no machine can be made here: {fault.message}")
    await here.play(lines[at + 1 :])


async def test_it_plays_a_machines_life_and_its_clones(tmp_path):
    playbook.furnish(tmp_path, kernel())
    async with running(tmp_path) as here:
        await started(here)
        await here.play(playbook.paused())
    assert (tmp_path / "memory").stat().st_size == 128 << 20
    for scene in (playbook.cloned, playbook.cloned_wrongly):
        async with running(tmp_path) as here:
            await here.play(scene())


async def test_without_kvm_it_ends_and_says_why(tmp_path):
    """A cold boot by configuration file where there is no /dev/kvm at all."""
    playbook.furnish(tmp_path, kernel())
    config = {
        "boot-source": playbook.KERNEL,
        "machine-config": playbook.MACHINE,
        "drives": [playbook.ROOT],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    devices = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
    command = f"{FIRECRACKER} --id test --api-sock api.sock --config-file config.json"
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", f"{devices} && exec {command}"),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = await Process(tmp_path, process).says()
    assert process.returncode == 1
    assert "Error creating KVM object: No such file or directory (os error 2)" in said
    assert "the /dev/kvm file's ACL" in said
