"""bzImages, modules and ELF headers made by hand, good and bad."""

import contextlib
import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.vmm import kernel_image
from godwit.agent.vmm.kernel_image import BadKernel

KERNEL = b"\x7fELF" + bytes(range(256)) * 500


def bzimage(payload: bytes, *, claimed: int | None = None) -> bytes:
    """Return a bzImage of one setup sector with this payload, 64 bytes into the kernel part."""
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    length = len(payload) if claimed is None else claimed
    struct.pack_into("<II", header, 0x248, 64, length)
    return bytes(header) + bytes(64) + payload


def lz4_stored(data: bytes) -> bytes:
    """Return one raw LZ4 block that holds the data as literals."""
    assert len(data) >= 15
    rest, extra = len(data) - 15, b""
    while rest >= 255:
        extra, rest = extra + b"\xff", rest - 255
    return b"\xf0" + extra + bytes([rest]) + data


def lz4_legacy(data: bytes) -> bytes:
    block = lz4_stored(data)
    return (
        b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block + struct.pack("<I", len(data))
    )


@pytest.mark.parametrize(
    "payload",
    [
        lz4_legacy(KERNEL),
        zstandard.ZstdCompressor().compress(KERNEL) + struct.pack("<I", len(KERNEL)),
        lzma.compress(KERNEL) + struct.pack("<I", len(KERNEL)),
        gzip.compress(KERNEL),
    ],
    ids=["lz4", "zstd", "xz", "gzip"],
)
def test_the_kernel_comes_out_whole(payload: bytes) -> None:
    assert kernel_image.vmlinux(bzimage(payload)) == KERNEL


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "not a bzImage"),
        (bytes(4096), "not a bzImage"),
        (bzimage(lz4_legacy(KERNEL))[:-500], "cut short"),
        (bzimage(b"", claimed=0), "cut short"),
        (bzimage(b"unknown compression"), "unknown compression"),
        (bzimage(gzip.compress(b"no ELF at all")), "not an ELF kernel"),
        (bzimage(lz4_legacy(KERNEL)[:-4] + struct.pack("<I", 5)), "should have 5 bytes"),
        (bzimage(b"\x02\x21\x4c\x18" + struct.pack("<I", 900) + bytes(50)), "cut short"),
    ],
)
def test_what_is_no_kernel_is_refused_in_words(image: bytes, words: str) -> None:
    with pytest.raises(BadKernel, match=words):
        kernel_image.vmlinux(image)


@given(st.binary(min_size=1, max_size=200))
def test_corrupt_blocks_are_refused_or_bounded(block: bytes) -> None:
    with contextlib.suppress(BadKernel):
        assert len(kernel_image.lz4_block(block, 4096)) <= 4096


def test_modules_say_what_they_need() -> None:
    assert kernel_image.module_depends(b"\0license=GPL\0depends=virtio,net-failover\0x") == (
        "virtio",
        "net_failover",
    )
    assert kernel_image.module_depends(b"\0depends=\0") == ()
    assert kernel_image.module_depends(b"") == ()
    for name in ("net-failover.ko", "net_failover.ko.xz", "net_failover"):
        assert kernel_image.module_name(name) == "net_failover"


NEEDS = {"net": ("failover", "virtio"), "failover": (), "virtio": ("ring",), "ring": ()}


def test_every_module_comes_after_what_it_needs() -> None:
    order = kernel_image.load_order(("net", "virtio"), NEEDS.__getitem__)
    assert order == ("failover", "ring", "virtio", "net")
    assert kernel_image.load_order(("net",), NEEDS.__getitem__, loaded=("virtio",)) == (
        "failover",
        "net",
    )


def test_modules_in_a_circle_are_refused() -> None:
    with pytest.raises(BadKernel, match="needs itself"):
        kernel_image.load_order(("a",), {"a": ("b",), "b": ("a",)}.__getitem__)


def test_a_static_program_is_told_from_others(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("int main(void) { return 0; }\n")
    for flag, expected in (("-static", True), ("-static-pie", True), ("-pie", False)):
        subprocess.run(["gcc", flag, "-o", tmp_path / "x", source], check=True, timeout=60)
        assert kernel_image.is_static((tmp_path / "x").read_bytes()) is expected
    assert not kernel_image.is_static(b"#!/bin/sh\n")
    assert not kernel_image.is_static(b"\x7fELF")
    assert not kernel_image.is_static(b"\x7fELF" + b"\xff" * 100)
