"""The guest kit's pure parts, and `ensure` over a cache that already holds a kernel."""

import asyncio
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from godwit.agent.vmm import guestkit, initramfs
from godwit.base.errors import Failure

DEPENDS = """linux-image-cloud-amd64
  Depends: linux-image-6.1.0-56-cloud-amd64
  Conflicts: something
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a folder with a godwit-init that runs here: a static shell script's stand-in."""
    folder = tmp_path / "programs"
    folder.mkdir()
    source = folder / "init.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("2600123"); return 0; }\n')
    subprocess.run(
        ["gcc", "-static", "-o", folder / "godwit-init", source], check=True, timeout=60
    )
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache with a kernel of two modules, as a first `ensure` would leave it."""
    kernel = tmp_path / "cache" / "guest" / "kernel" / "6.1.0-1-cloud-amd64"
    (kernel / "modules").mkdir(parents=True)
    (kernel / "vmlinux").write_bytes(b"\x7fELF")
    (kernel / "modules" / "order").write_text("boot virtio.ko\nrun erofs.ko\n")
    (kernel / "modules" / "virtio.ko").write_bytes(b"virtio")
    (kernel / "modules" / "erofs.ko").write_bytes(b"erofs!")
    (kernel / "format").write_text("3")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEPENDS, "linux-image-6.1.0-56-cloud-amd64"),
        ("linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-amd64-dbg\n", None),
        ("", None),
    ],
)
def test_the_meta_package_stands_for_one_kernel(text: str, expected: str | None) -> None:
    assert guestkit.parse_depends(text) == expected


async def test_a_kit_is_made_once_and_found_again(cache: Path, programs: Path) -> None:
    first = await guestkit.ensure(cache, programs)
    written = first.initramfs.stat().st_mtime_ns
    second = await guestkit.ensure(cache, programs)
    assert first == second
    assert second.initramfs.stat().st_mtime_ns == written
    assert (first.tsc_khz, first.kernel_version) == (2_600_123, "6.1.0-1-cloud-amd64")
    assert first.kernel.name == "vmlinux"


async def test_a_new_init_makes_a_new_initramfs_beside_the_old(
    cache: Path, programs: Path
) -> None:
    first = await guestkit.ensure(cache, programs)
    with (programs / "godwit-init").open("ab") as file:
        file.write(b"newer")
    second = await guestkit.ensure(cache, programs)
    assert first.initramfs != second.initramfs
    assert first.initramfs.exists()


async def test_old_initramfs_do_not_gather_for_ever(cache: Path, programs: Path) -> None:
    for number in range(8):
        with (programs / "godwit-init").open("ab") as file:
            file.write(b"newer")
        kit = await guestkit.ensure(cache, programs)
        os.utime(kit.initramfs, (number, number))
    assert kit.initramfs.exists()
    assert len(list((cache / "guest").glob("initramfs-*.img"))) == 4


async def test_calls_at_once_agree(cache: Path, programs: Path) -> None:
    kits = await asyncio.gather(*(guestkit.ensure(cache, programs) for _ in range(4)))
    assert len(set(kits)) == 1


async def test_the_counters_rate_is_measured_again_after_a_reboot(
    cache: Path, programs: Path
) -> None:
    note = cache / "guest" / "tsc.json"
    note.write_text(json.dumps({"boot": "another", "khz": 1}))
    assert (await guestkit.ensure(cache, programs)).tsc_khz == 2_600_123
    known = json.loads(note.read_text())
    note.write_text(json.dumps({**known, "khz": 7}))
    assert (await guestkit.ensure(cache, programs)).tsc_khz == 7
    note.write_text("not json")
    assert (await guestkit.ensure(cache, programs)).tsc_khz == 2_600_123


async def test_a_missing_init_says_how_to_build_it(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file") as caught:
        await guestkit.ensure(cache, tmp_path / "nowhere")
    assert caught.value.code == "failed_precondition"
    assert "cargo static" in caught.value.hint


async def test_an_init_that_needs_a_loader_is_refused(cache: Path, programs: Path) -> None:
    shutil.copy("/bin/sh", programs / "godwit-init")
    with pytest.raises(Failure, match="not a static x86-64 program"):
        await guestkit.ensure(cache, programs)


def test_the_archive_holds_what_a_guest_boots_from(cache: Path) -> None:
    (kernel,) = (cache / "guest" / "kernel").iterdir()
    whole = guestkit.build_initramfs(b"the init", kernel / "modules")
    assert whole == guestkit.build_initramfs(b"the init", kernel / "modules")
    entries = dict(_unpack(whole))
    assert list(entries) == [
        "dev",
        "dev/console",
        "modules",
        "modules/order",
        "modules/virtio.ko",
        "modules/erofs.ko",
        "init",
        "TRAILER!!!",
    ]
    assert entries["init"] == (stat.S_IFREG | 0o755, b"the init")
    assert stat.S_ISCHR(entries["dev/console"][0])
    assert entries["modules/erofs.ko"][1] == b"erofs!"


@pytest.mark.parametrize("length", range(9))
def test_every_length_is_padded(length: int) -> None:
    content = b"x" * length
    whole = initramfs.archive((initramfs.file("a" * (length + 1), content),))
    assert len(whole) % 512 == 0
    assert _unpack(whole)[0] == ("a" * (length + 1), (stat.S_IFREG | 0o644, content))


def _unpack(archive: bytes) -> list[tuple[str, tuple[int, bytes]]]:
    """Read an archive as the kernel does: fields of eight hexadecimal digits, all padded."""
    found, at = [], 0
    while at < len(archive):
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        assert archive[at : at + 6] == b"070701"
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) // 4 * 4
        found.append((name, (mode, archive[at : at + size])))
        at += (size + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
    return found
