"""Machines' ephemeral disks: fresh for each boot, copied from one empty disk per kind and size.

Making a file system takes tens of milliseconds and the result is always the same, so it is made
once; a copy shares its blocks where the file system can (reflink), and otherwise only the few
megabytes that are not holes are copied. A disk that lives as long as one boot has no journal, and
nothing waits for it to reach the platter; a root that lasts has one.
"""

import asyncio
import errno
import fcntl
import os
import secrets
from pathlib import Path
from typing import BinaryIO, Literal

from godwit.base import processes

Kind = Literal["scratch", "root", "swap"]
"""A root is a scratch disk that outlives its boot."""

_FICLONE = 0x4004_9409
"""linux/fs.h; fails on file systems without reflinks."""
_MKFS_S = 120.0
_MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,nodiscard")
_MAKERS: dict[Kind, tuple[str, ...]] = {
    "scratch": (*_MKFS, "-O", "^has_journal"),
    "root": (*_MKFS, "-J", "size=16"),
    "swap": ("mkswap", "--quiet"),
}
_ENDINGS: dict[Kind, str] = {"scratch": "ext4", "root": "ext4", "swap": "img"}


class Disks:
    """Copies of empty disks, made from templates kept beside them on the same file system."""

    def __init__(self, templates: Path) -> None:
        self._templates = templates
        self._making = asyncio.Lock()

    async def make(self, path: Path, kind: Kind, size_bytes: int) -> None:
        """Ensure a fresh, empty disk at the path, replacing what was there.

        It is there whole or not at all: a root that lasts is taken as it is the next time.

        Raises:
            OSError: There is no room.
            ProgramFailed: There is no such disk of that size.
        """
        template = self._templates / f"{kind}-{size_bytes}.{_ENDINGS[kind]}"
        async with self._making:
            if not await asyncio.to_thread(template.exists):
                await self._make_template(template, kind, size_bytes)
        new = path.with_name(f".{path.name}.new")
        await asyncio.to_thread(clone, template, new)
        new.replace(path)

    async def _make_template(self, template: Path, kind: Kind, size_bytes: int) -> None:
        new = template.with_name(f"{template.name}.{secrets.token_hex(4)}.new")
        try:
            await asyncio.to_thread(_empty_file, new, size_bytes)
            await processes.run([*_MAKERS[kind], str(new)], timeout_s=_MKFS_S)
            new.rename(template)
        finally:
            new.unlink(missing_ok=True)


def clone(source: Path, target: Path, *, mode: int = 0o600) -> None:
    """Copy a file, sharing its blocks if possible and keeping its holes; the target is new."""
    target.unlink(missing_ok=True)
    with source.open("rb") as given, _new_file(target) as made:
        os.fchmod(made.fileno(), mode)
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
