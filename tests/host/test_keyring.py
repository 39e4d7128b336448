"""The keyring as a process: its user, what it leaves behind, its return, and who may ask."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godwit.base.settings import Host, Paths, Settings
from godwit.host import running
from godwit.keyring import client
from godwit.wire import keyring
from godwit.wire.secrets import Owner, to_text

pytestmark = pytest.mark.host

UID = 1_990_123
OWNER = Owner(org_id="org_a", app_id="app_a")
SECRET = b"geheim-im-kern-4711"


@contextlib.asynccontextmanager
async def started(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a keyring over a folder, ready to be asked."""
    (folder / "run").mkdir(exist_ok=True)
    paths = Paths(data=folder / "data", run=folder / "run")
    settings = Settings(paths=paths, host=Host(keyring_uid=UID))
    told = folder / "settings.json"
    told.write_text(settings.model_dump_json())
    (folder / "cwd").mkdir(mode=0o777, exist_ok=True)
    (folder / "cwd").chmod(0o777)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "godwit.cmd.keyring", "--settings", str(told)),
        cwd=folder / "cwd",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(Exception):
                    await client.Client(folder / "run" / "keyring.sock").roots()
                    break
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def status(pid: int, field: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{field}:")).split()[1:]


async def test_it_is_a_user_of_its_own_that_cannot_come_back(tmp_path: Path) -> None:
    async with started(tmp_path) as process:
        assert set(status(process.pid, "Uid")) == {str(UID)}
        assert set(status(process.pid, "Gid")) == {str(UID)}
        assert status(process.pid, "Groups") == []
        assert status(process.pid, "NoNewPrivs") == ["1"]
        assert int(status(process.pid, "CapEff")[0], 16) == 0
    folder = tmp_path / "data" / "keyring"
    for path, mode in ((folder, 0o700), (folder / "roots.json", 0o600)):
        found = path.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (UID, mode)


async def test_it_answers_its_user_alone(tmp_path: Path) -> None:
    async with started(tmp_path):
        socket = tmp_path / "run" / "keyring.sock"
        found = os.stat(socket)  # noqa: PTH116
        assert (found.st_uid, found.st_mode & 0o777) == (os.getuid(), 0o600)


async def test_what_it_wraps_opens_in_its_next_life(tmp_path: Path) -> None:
    asked = client.Client(tmp_path / "run" / "keyring.sock")
    value = keyring.PlainValue(name="A", version=1, value=to_text(SECRET))
    async with started(tmp_path) as process:
        key = await asked.new_key(keyring.NewKey(owner=OWNER))
        sealed = (await asked.seal(keyring.Seal(key=key, values=(value,)))).values[0].sealed
        process.kill()
        await process.wait()
    async with started(tmp_path):
        await asked.new_root()
        shown = await asked.reveal(keyring.Reveal(key=key, values=(sealed,)))
        assert shown.values == (value,)


async def test_its_end_leaves_no_core(tmp_path: Path) -> None:
    asked = client.Client(tmp_path / "run" / "keyring.sock")
    value = keyring.PlainValue(name="A", version=1, value=to_text(SECRET))
    async with started(tmp_path) as process:
        key = await asked.new_key(keyring.NewKey(owner=OWNER))
        await asked.seal(keyring.Seal(key=key, values=(value,)))
        assert kept_from_cores(process.pid)
        process.send_signal(signal.SIGABRT)
        await process.wait()
    assert_nothing_left(tmp_path)


def assert_nothing_left(folder: Path) -> None:
    assert not list((folder / "cwd").iterdir())
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET not in path.read_bytes(), path


def kept_from_cores(pid: int) -> bool:
    """Tell whether a process would show memory in no core dump."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
    shown = int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16)
    # What is not dumpable belongs to root, whoever it is.
    owner = os.stat(f"/proc/{pid}/environ").st_uid  # noqa: PTH116
    return core[4:6] == ["0", "0"] and shown == 0 and owner == 0 and running.of(pid).alive
