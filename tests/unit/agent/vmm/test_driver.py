"""What the driver does with files alone; real machines are in tests/vm/test_qemu.py."""

import asyncio
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.vmm import cgroups, driver, probe, qemu, sockets, turns
from godwit.base import errors
from godwit.wire import host_rpc, shim
from tests.unit.agent.vmm.test_qemu import plan

MACHINE = "148ed193b95948"
pytestmark = pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs e2fsprogs")


@dataclass(frozen=True)
class NoKit:
    kernel: Path = Path("/no/kernel")
    initramfs: Path = Path("/no/initramfs")
    tsc_khz: int = 1


@pytest.fixture
def vmm(tmp_path):
    places = driver.Places(tmp_path / "store", tmp_path / "run", Path("/no/godwit-shim"))
    groups = cgroups.Cgroups("test", tmp_path / "cgroup")
    return driver.HostVmm(places, qemu.Qemu(NoKit(), probe.Accelerator("tcg", "")), groups)


def directory(tmp_path: Path) -> Path:
    return tmp_path / "store" / "machines" / MACHINE


def record(instance_id: str) -> shim.ExitRecord:
    return shim.ExitRecord(
        machine_id=MACHINE,
        instance_id=instance_id,
        exited_at_ms=5,
        cause="guest",
        guest=shim.GuestExit(exit_code=3),
        vmm=shim.VmmExit(exit_code=0),
    )


async def test_preparing_writes_what_the_boot_needs_and_for_us_alone(vmm, tmp_path):
    await vmm.prepare(plan())
    made = directory(tmp_path)
    assert (made / "scratch.ext4").stat().st_size == 1 << 30
    assert made.stat().st_mode & 0o777 == 0o700
    for name in ("scratch.ext4", "logs"):
        assert (made / name).stat().st_mode & 0o077 == 0
    assert vmm.logs_directory(MACHINE).is_dir()


async def test_a_swap_disk_is_made_anew_and_goes_with_every_boot(vmm, tmp_path):
    swap = directory(tmp_path) / "swap.img"
    given = dataclasses.replace(plan(), swap_bytes=1 << 24)
    await vmm.prepare(given)
    fresh = swap.read_bytes()
    with swap.open("r+b") as disk:
        disk.seek(1 << 20)
        disk.write(b"a page of the boot before")
    await vmm.prepare(given)
    assert swap.read_bytes() == fresh
    assert len(fresh) == 1 << 24
    assert swap.stat().st_mode & 0o077 == 0
    await vmm.discard(MACHINE, 5, keep="all")
    assert not swap.exists()
    await vmm.prepare(plan())
    assert not swap.exists()


async def test_a_cache_drive_is_made_anew_and_lasts_as_long_as_a_saved_state(vmm, tmp_path):
    cache = directory(tmp_path) / "cache.ext4"
    given = dataclasses.replace(plan(), cache_bytes=1 << 24)
    await vmm.prepare(given)
    assert (cache.stat().st_size, cache.stat().st_mode & 0o077) == (1 << 24, 0)
    fresh = cache.read_bytes()
    with cache.open("r+b") as disk:
        disk.seek(1 << 20)
        disk.write(b"what can be made again")
    await vmm.discard(MACHINE, 5, keep="all")
    assert cache.read_bytes() != fresh
    await vmm.prepare(given)
    assert cache.read_bytes() == fresh
    await vmm.discard(MACHINE, 5, keep="root")
    assert not cache.exists()


async def test_a_volume_with_a_size_is_a_disk_of_its_own(vmm, tmp_path):
    first, second = (directory(tmp_path) / f"own{number}.ext4" for number in (1, 2))
    given = dataclasses.replace(plan(), volume_bytes=(1 << 20, 1 << 24))
    assert given.hardware.disks == ("own1", "own2")
    await vmm.prepare(given)
    assert [each.stat().st_size for each in (first, second)] == [1 << 20, 1 << 24]
    assert second.stat().st_mode & 0o077 == 0
    await vmm.discard(given.machine_id, given.slot, keep="all")
    assert first.exists()
    await vmm.discard(given.machine_id, given.slot, keep="root")
    assert not first.exists()
    assert not second.exists()


async def test_a_root_that_lasts_is_found_again_until_nothing_is_kept(vmm, tmp_path):
    given = dataclasses.replace(plan(), lasting_root=True, keep_scratch=True)
    root = directory(tmp_path) / "scratch.ext4"
    await vmm.prepare(given)
    with root.open("r+b") as disk:
        disk.seek(1 << 24)
        disk.write(b"what the app wrote")
    written = root.read_bytes()
    await vmm.discard(MACHINE, 5, keep="root")
    await vmm.prepare(given)
    assert root.read_bytes() == written
    await vmm.discard(MACHINE, 5)
    assert not root.exists()
    await vmm.prepare(given)
    assert root.read_bytes() != written


async def test_what_a_crash_left_of_a_copy_is_no_root(vmm, tmp_path):
    half = directory(tmp_path) / ".scratch.ext4.new"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    await vmm.prepare(dataclasses.replace(plan(), lasting_root=True, keep_scratch=True))
    assert not half.exists()
    assert (directory(tmp_path) / "scratch.ext4").stat().st_size == 1 << 30


async def test_preparing_again_starts_afresh_and_keeps_the_logs(vmm, tmp_path):
    await vmm.prepare(plan())
    made = directory(tmp_path)
    (made / "exit.json").write_text(record("01K8").model_dump_json())
    (made / "logs" / "current.jsonl").write_text("{}")
    with (made / "scratch.ext4").open("r+b") as disk:
        disk.write(b"old" * 100)
    await vmm.prepare(plan())
    assert await vmm.exit_record(MACHINE, "01K8") is None
    assert (made / "scratch.ext4").read_bytes()[:300] != b"old" * 100
    assert (made / "logs" / "current.jsonl").exists()


async def test_a_disk_that_cannot_be_made_is_the_hosts_lack_of_space(vmm, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "templates").write_text("in the way")
    with pytest.raises(errors.Failure) as caught:
        await vmm.prepare(plan())
    assert caught.value.code == "insufficient_capacity"


async def test_an_exit_is_told_for_its_own_boot_only(vmm, tmp_path):
    assert await vmm.exit_record(MACHINE, "01K8") is None
    await vmm.prepare(plan())
    path = directory(tmp_path) / "exit.json"
    path.write_text(record("01K8").model_dump_json())
    assert await vmm.exit_record(MACHINE, "01K8") == record("01K8")
    assert await vmm.exit_record(MACHINE, "01K9") is None
    path.write_text('{"v": 1, "torn')
    assert await vmm.exit_record(MACHINE, "01K8") is None


async def test_discarding_leaves_logs_and_the_exit_and_nothing_else(vmm, tmp_path):
    await vmm.prepare(plan())
    made = directory(tmp_path)
    (made / "exit.json").write_text(record("01K8").model_dump_json())
    (tmp_path / "run" / "m").mkdir(parents=True)
    (tmp_path / "run" / "m" / f"{MACHINE}.sock").touch()
    for _ in range(2):
        await vmm.discard(MACHINE, 5)
    assert sorted(path.name for path in made.iterdir()) == ["exit.json", "logs"]
    assert list((tmp_path / "run" / "m").iterdir()) == []


async def test_a_machine_that_never_was_is_discarded_and_forgotten(vmm):
    await vmm.discard("ffffffffffffff", 0)
    await vmm.forget("ffffffffffffff")
    assert await vmm.connect("ffffffffffffff") is None
    assert await vmm.observed() == frozenset()


async def test_a_turn_to_boot_ends_with_the_machine_and_a_template_needs_none(vmm):
    size = ports.Hardware.of(host_rpc.Resources(memory_mb=256))
    vmm._turns = turns.Turns(1)
    await vmm.await_turn(MACHINE, "org_1", size)
    waiting = asyncio.get_running_loop().create_task(
        vmm.await_turn("148ed193b95949", "org_1", size)
    )
    await asyncio.sleep(0)
    assert not waiting.done()

    class Copies:
        def take(self, org_id: str, hardware: ports.Hardware) -> str:
            return f"of {org_id} with {hardware.resources.memory_mb}"

    vmm._copies = Copies()
    await vmm.await_turn("148ed193b9594a", "org_1", size)
    await vmm.discard(MACHINE, 5)
    await waiting
    assert vmm._turns.held("148ed193b95949") is None


async def test_forgetting_takes_the_logs_too(vmm, tmp_path):
    await vmm.prepare(plan())
    for _ in range(2):
        await vmm.forget(MACHINE)
    assert not directory(tmp_path).exists()


async def test_a_run_directory_too_long_for_sockets_is_told_in_words(tmp_path):
    with pytest.raises(errors.Failure, match="too long"):
        sockets.listen(tmp_path / ("x" * 120) / "m" / f"{MACHINE}.channel")
