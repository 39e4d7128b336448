"""A directory as one read-only EROFS file: `mkfs.erofs`, made to give the same file twice.

Times, owners, modes and extended attributes stay those of the directory. The file carries a
UUID derived from the image's digest and, as its build time, the newest time in the image, so
two hosts make identical files. Not compressed by default: guests read faster, most of all
under emulation. Called by `store.py`.
"""

import os
import uuid
from pathlib import Path
from typing import Final, Literal

from godwit.base import processes
from godwit.base.errors import Failure

Compression = Literal["none", "lz4"]

_NAMESPACE: Final = uuid.UUID("5c1c2f0e-6a53-4d7e-9a6b-0b8f4d1f2a61")
_FULL: Final = "No space left on device"
_BLOCK: Final = 4096


async def make(
    directory: Path,
    into: Path,
    *,
    digest: str,
    newest_ns: int,
    compression: Compression = "none",
    timeout_s: float = 600.0,
) -> int:
    """Write the directory as an EROFS file and return the file's size.

    Raises:
        Failure: `insufficient_capacity` when the disk is full, `failed_precondition` when
            mkfs.erofs is not installed, `deadline_exceeded`.
    """
    seconds = max(newest_ns // 1_000_000_000 + 1, 0)
    codec = ["-zlz4"] if compression == "lz4" else []
    command = [
        "mkfs.erofs", "--quiet", "-x1", *codec, f"-U{uuid.uuid5(_NAMESPACE, digest)}",
        str(into), str(directory),
    ]  # fmt: skip
    environment = {"PATH": os.defpath + ":/usr/sbin:/sbin", "SOURCE_DATE_EPOCH": str(seconds)}
    try:
        await processes.run(command, timeout_s=timeout_s, env=environment)
    except processes.ProgramFailed as error:
        raise _failure(error) from error
    size = into.stat().st_size  # noqa: ASYNC240 - one system call
    if size == 0 or size % _BLOCK:
        raise Failure("internal", f"mkfs.erofs wrote a file of {size} bytes for {digest}")
    return size


def _failure(error: processes.ProgramFailed) -> Failure:
    if _FULL in error.stderr or "ENOSPC" in error.stderr:
        return Failure("insufficient_capacity", "the disk is full: the image does not fit")
    if error.reason == "not installed":
        return Failure(
            "failed_precondition",
            "mkfs.erofs is not installed on this host",
            hint="install the package erofs-utils",
        )
    if error.reason.startswith("no answer"):
        return Failure("deadline_exceeded", f"making the image's file system: {error.reason}")
    return Failure("internal", f"the image's file system cannot be made: {error}")
