import asyncio
import shutil
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.agent.vmm import disks
from godwit.base import processes

needs_mkfs = pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs e2fsprogs")
SIZE = 64 * 1024 * 1024


@needs_mkfs
async def test_a_disk_is_an_empty_file_system_of_that_size(tmp_path):
    made = disks.Disks(tmp_path / "templates")
    await made.make(tmp_path / "scratch.ext4", "scratch", SIZE)
    assert (tmp_path / "scratch.ext4").stat().st_size == SIZE
    await processes.run(["e2fsck", "-fn", str(tmp_path / "scratch.ext4")])
    assert (tmp_path / "scratch.ext4").stat().st_blocks * 512 < SIZE // 8


@needs_mkfs
async def test_a_disk_is_fresh_each_time(tmp_path):
    made = disks.Disks(tmp_path / "templates")
    path = tmp_path / "scratch.ext4"
    await made.make(path, "scratch", SIZE)
    clean = path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"what the last boot left" * 1000)
    await made.make(path, "scratch", SIZE)
    assert path.read_bytes() == clean


@needs_mkfs
async def test_one_template_serves_many_at_once(tmp_path):
    made = disks.Disks(tmp_path / "templates")
    await asyncio.gather(*(made.make(tmp_path / f"{n}.ext4", "scratch", SIZE) for n in range(8)))
    await made.make(tmp_path / "other.ext4", "scratch", 2 * SIZE)
    names = sorted(path.name for path in (tmp_path / "templates").iterdir())
    assert names == [f"scratch-{2 * SIZE}.ext4", f"scratch-{SIZE}.ext4"]


@needs_mkfs
async def test_disks_are_for_us_alone(tmp_path):
    await disks.Disks(tmp_path / "templates").make(tmp_path / "scratch.ext4", "scratch", SIZE)
    assert (tmp_path / "scratch.ext4").stat().st_mode & 0o777 == 0o600


@needs_mkfs
async def test_a_root_that_lasts_has_a_journal_and_takes_little_room(tmp_path):
    made = disks.Disks(tmp_path / "templates")
    for kind, has_one in (("scratch", False), ("root", True)):
        path = tmp_path / f"{kind}.ext4"
        await made.make(path, kind, SIZE * 4)
        told = await processes.run(["dumpe2fs", "-h", str(path)])
        assert (b"has_journal" in told.stdout) == has_one
        assert path.stat().st_blocks * 512 < SIZE // 2


async def test_a_swap_disk_holds_a_swap_area_of_that_size(tmp_path):
    made = disks.Disks(tmp_path / "templates")
    await made.make(tmp_path / "swap.img", "swap", SIZE)
    content = (tmp_path / "swap.img").read_bytes()
    assert content[4096 - 10 : 4096] == b"SWAPSPACE2"
    version, last_page = struct.unpack_from("<II", content, 1024)
    assert (version, last_page) == (1, SIZE // 4096 - 1)
    assert len(content) == SIZE
    assert (tmp_path / "swap.img").stat().st_blocks * 512 <= 65_536


async def test_a_size_that_cannot_be_made_leaves_nothing(tmp_path):
    made = disks.Disks(tmp_path / "templates")
    with pytest.raises(processes.ProgramFailed):
        await made.make(tmp_path / "scratch.ext4", "scratch", 512)
    assert list((tmp_path / "templates").iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=9000)), max_size=5),
    st.integers(1, 1 << 21),
)
def test_a_copy_is_the_same_bytes_wherever_the_holes_are(tmp_path_factory, writes, size):
    where = tmp_path_factory.mktemp("clone")
    source = where / "source"
    with source.open("wb") as file:
        file.truncate(size)
        for page, data in writes:
            file.seek(page * 4096)
            file.write(data)
    disks.clone(source, where / "target")
    assert (where / "target").read_bytes() == source.read_bytes()
