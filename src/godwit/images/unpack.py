"""The process that fills an image's directory: `python -m godwit.images.unpack`.

Reads one job as JSON on its standard input, changes its root to the directory, applies the
layers and prints the outcome as JSON. Started by `flatten.py` and nobody else; kept free
of heavy imports, because every image waits for its start.
"""

import errno
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

from godwit.base.errors import Code, Failure
from godwit.images import blobstream, layers

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_HOST: Final = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS)
"""What the host cannot do just now, whatever the image: asked again, it may be well."""


def main() -> None:
    """Do the job on standard input; the exit code is 0 also for a job that was refused."""
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return _work(job)
    except Failure as failure:
        return {"error": {"code": failure.code, "message": failure.message}}
    except OSError as error:
        code, message = _told(error)
        return {"error": {"code": code, "message": message}}
    except MemoryError:
        pass  # Answered below, when what took the memory is let go of.
    message = "its names take more memory than an image's may"
    return {"error": {"code": "invalid_argument", "message": message}}


def _told(error: OSError) -> tuple[Code, str]:
    if error.errno in _FULL:
        return "insufficient_capacity", "the disk is full: it does not fit"
    if error.errno in _HOST:
        return "unavailable", f"this host could not unpack it: {error}"
    return "invalid_argument", f"an entry cannot be made: {error}"


def _work(job: dict[str, Any]) -> dict[str, Any]:
    opened = []
    for one in job["layers"]:
        layer = layers.LayerFile(Path(one["path"]), one["name"], one["diff_id"])
        opened.append((layer, blobstream.open_blob(layer.path)))
    limits = layers.Limits(**job["limits"])
    # The tree is kept in memory, and its names are the image's: they must not take the host's.
    resource.setrlimit(resource.RLIMIT_DATA, (limits.max_memory_bytes, limits.max_memory_bytes))
    os.umask(0o022)
    os.chdir(job["root"])
    if os.geteuid() == 0:
        os.chroot(".")
    done = layers.apply(opened, b".", limits, ordinary=job["ordinary"])
    return {
        "entries": done.entries,
        "size_bytes": done.size_bytes,
        "newest_ns": done.newest_ns,
    }


if __name__ == "__main__":
    main()
