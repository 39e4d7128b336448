"""A `newc` cpio archive, byte for byte the same for the same content. Pure.

`agent.vmm.guestkit` writes the guest's initramfs with it, uncompressed: emulated guests
decompress slowly, and the page cache holds one copy for all machines.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"
_BLOCK = 512


@dataclass(frozen=True)
class Entry:
    """One file, directory or device of the archive.

    Attributes:
        mode: Type and permissions, as `st_mode`.
        device: Major and minor of a device node.
    """

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    """Return a directory that everybody may enter."""
    return Entry(path, stat.S_IFDIR | 0o755)


def file(path: str, content: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(path, stat.S_IFREG | mode, content)


def character_device(path: str, major: int, minor: int) -> Entry:
    """Return a character device that only root may use."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of the entries, in their order: directories before what they hold."""
    parts = [
        _record(number, entry) for number, entry in enumerate([*entries, Entry(_TRAILER, 0)], 1)
    ]
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % _BLOCK)


def _record(number: int, entry: Entry) -> bytes:
    name = entry.path.lstrip("/").encode() + b"\0"
    major, minor = entry.device
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(number, entry.mode, 0, 0, links, 0, len(entry.content)),
        *(0, 0, major, minor, len(name), 0),
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
