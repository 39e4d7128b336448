"""Machines' ephemeral disks: a fresh ext4 for each boot, copied from one empty disk per size.

Making a file system takes tens of milliseconds and the result is always the same, so it is made
once; a copy shares its blocks where the file system can (reflink), and otherwise only the few
megabytes that are not holes are copied. Such a disk lives as long as one boot: it has no journal,
and nothing waits for it to reach the platter.
"""

import asyncio
import errno
import fcntl
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from godwit.base import processes

_FICLONE = 0x4004_9409
"""linux/fs.h; fails on file systems without reflinks."""
_MKFS_S = 120.0
_LAYOUT = ("-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=0,nodiscard")


class ScratchDisks:
    """Copies of empty disks, made from templates kept beside them on the same file system."""

    def __init__(self, templates: Path) -> None:
        self._templates = templates
        self._making = asyncio.Lock()

    async def make(self, path: Path, size_bytes: int) -> None:
        """Ensure a fresh, empty disk at the path, replacing what was there."""
        template = self._templates / f"scratch-{size_bytes}.ext4"
        async with self._making:
            if not await asyncio.to_thread(template.exists):
                await self._make_template(template, size_bytes)
        await asyncio.to_thread(clone, template, path)

    async def _make_template(self, template: Path, size_bytes: int) -> None:
        new = template.with_name(f"{template.name}.{secrets.token_hex(4)}.new")
        try:
            await asyncio.to_thread(_empty_file, new, size_bytes)
            await processes.run(["mkfs.ext4", "-q", "-F", *_LAYOUT, str(new)], timeout_s=_MKFS_S)
            new.rename(template)
        finally:
            new.unlink(missing_ok=True)


def clone(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks if possible and keeping its holes; the target is new."""
    target.unlink(missing_ok=True)
    with source.open("rb") as given, _new_file(target) as made:
        try:
            fcntl.ioctl(made.fileno(), _FICLONE, given.fileno())
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL):
                raise
            _copy_extents(given.fileno(), made.fileno())


def _copy_extents(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    end = 0
    while (start := _next_data(source, end)) is not None:
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)


def _next_data(source: int, after: int) -> int | None:
    try:
        return os.lseek(source, after, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        chunk = os.pread(source, min(end - start, 1 << 20), start)
        if not chunk:
            return
        os.pwrite(target, chunk, start)
        start += len(chunk)


def _empty_file(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _new_file(path) as made:
        made.truncate(size_bytes)


def _new_file(path: Path) -> BinaryIO:
    """Create a file that only we may open, whatever the umask."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
