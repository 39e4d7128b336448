"""The uncompressed kernel inside a bzImage, and what its modules say of themselves.

Pure but for `lz4_block`, which asks the system's liblz4. `agent.vmm.guestkit` calls it: a
`vmlinux` boots half a second sooner under emulation, and Firecracker takes nothing else.
"""

import bz2
import ctypes
import ctypes.util
import gzip
import lzma
import struct
from collections.abc import Callable, Iterable

import zstandard

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 * 1024 * 1024
_ELF = b"\x7fELF"
_ELF_HEADER = 64
_PROGRAM_INTERPRETER = 3
_BOOT_HEADER_END = 0x250
_LEAST_PAYLOAD = 8


class BadKernel(ValueError):
    """The file is not a kernel this module understands; the text says why."""


def vmlinux(bzimage: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst).

    Raises:
        BadKernel: Not a bzImage, cut short, or compressed in an unknown way.
    """
    if bzimage[0x202:0x206] != b"HdrS" or len(bzimage) < _BOOT_HEADER_END:
        raise BadKernel("not a bzImage: the boot header is missing")
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if length < _LEAST_PAYLOAD or len(payload) < length:
        raise BadKernel("the bzImage is cut short")
    for magic, decompress in _COMPRESSIONS:
        if payload.startswith(magic):
            kernel = decompress(payload)
            break
    else:
        raise BadKernel(f"unknown compression of the kernel: {payload[:6].hex()}")
    if not kernel.startswith(_ELF):
        raise BadKernel("what the bzImage holds is not an ELF kernel")
    return kernel


def _unlz4(payload: bytes) -> bytes:
    """Decompress the legacy LZ4 frame that kernels use; the last four bytes are the size."""
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
    parts: list[bytes] = []
    at, end = len(_LZ4_LEGACY), len(payload) - 4
    while at + 4 <= end:
        (length,) = struct.unpack_from("<I", payload, at)
        at += 4
        if length == 0 or at + length > end:
            raise BadKernel("the kernel's LZ4 blocks are cut short")
        parts.append(lz4_block(payload[at : at + length], _LZ4_BLOCK))
        at += length
    kernel = b"".join(parts)
    if len(kernel) != size:
        raise BadKernel(f"the kernel should have {size} bytes and has {len(kernel)}")
    return kernel


def lz4_block(block: bytes, most: int) -> bytes:
    """Decompress one raw LZ4 block with the system's liblz4, which apt itself depends on.

    Raises:
        BadKernel: The block is corrupt, or there is no liblz4.
    """
    name = ctypes.util.find_library("lz4")
    if name is None:
        raise BadKernel("liblz4 is not installed: apt-get install liblz4-1")
    decompress = ctypes.CDLL(name).LZ4_decompress_safe
    decompress.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
    decompress.restype = ctypes.c_int
    out = ctypes.create_string_buffer(most)
    length = decompress(block, out, len(block), most)
    if length < 0:
        raise BadKernel("a block of the kernel's LZ4 data is corrupt")
    return out.raw[:length]


def _unxz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(payload)


def _unzstd(payload: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(payload)


_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (_LZ4_LEGACY, _unlz4),
    (b"\x28\xb5\x2f\xfd", _unzstd),
    (b"\xfd7zXZ\x00", _unxz),
    (b"\x1f\x8b", gzip.decompress),
    (b"BZh", bz2.decompress),
)


def module_depends(module: bytes) -> tuple[str, ...]:
    """Return the names of the modules that this one needs, from its `.modinfo`."""
    for entry in module.split(b"\0"):
        if entry.startswith(b"depends="):
            names = entry.removeprefix(b"depends=").decode().split(",")
            return tuple(module_name(name) for name in names if name)
    return ()


def module_name(name: str) -> str:
    """Return a module's one name: `net-failover.ko` and `net_failover` are the same."""
    return name.removesuffix(".xz").removesuffix(".zst").removesuffix(".ko").replace("-", "_")


def load_order(
    roots: Iterable[str], depends: Callable[[str], Iterable[str]], loaded: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the roots and all they need, each after what it needs, without what is loaded.

    Raises:
        BadKernel: The modules need each other in a circle.
    """
    order: list[str] = []
    done, doing = set(loaded), set[str]()

    def visit(name: str) -> None:
        if name in done:
            return
        if name in doing:
            raise BadKernel(f"module {name} needs itself")
        doing.add(name)
        for needed in depends(name):
            visit(needed)
        done.add(name)
        order.append(name)

    for root in roots:
        visit(root)
    return tuple(order)


def is_static(program: bytes) -> bool:
    """Tell whether an ELF program runs without a program loader, as in an initramfs it must."""
    if not program.startswith(_ELF) or len(program) < _ELF_HEADER:
        return False
    (table,) = struct.unpack_from("<Q", program, 0x20)
    size, count = struct.unpack_from("<HH", program, 0x36)
    for index in range(count):
        at = table + index * size
        if at + 4 > len(program):
            return False
        if struct.unpack_from("<I", program, at)[0] == _PROGRAM_INTERPRETER:
            return False
    return True
