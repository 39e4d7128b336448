"""What the driver does with files alone; real machines are in tests/vm/test_qemu.py."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.agent.vmm import cgroups, driver, probe
from godwit.base import errors
from godwit.wire import guest, shim
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
    return driver.QemuVmm(places, NoKit(), probe.Accelerator("tcg", ""), groups)


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
    spec = guest.RunSpec.model_validate_json((made / "run.json").read_bytes())
    assert spec == plan().run_spec
    assert (made / "scratch.ext4").stat().st_size == 1 << 30
    assert made.stat().st_mode & 0o777 == 0o700
    for name in ("run.json", "scratch.ext4", "logs"):
        assert (made / name).stat().st_mode & 0o077 == 0
    assert vmm.logs_directory(MACHINE).is_dir()


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


async def test_forgetting_takes_the_logs_too(vmm, tmp_path):
    await vmm.prepare(plan())
    for _ in range(2):
        await vmm.forget(MACHINE)
    assert not directory(tmp_path).exists()


async def test_a_run_directory_too_long_for_sockets_is_told_in_words(tmp_path):
    with pytest.raises(errors.Failure, match="too long"):
        driver.listen(tmp_path / ("x" * 120) / "m" / f"{MACHINE}.channel")
