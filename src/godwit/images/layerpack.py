"""Making layers: a tree, or what changed in it, as a compressed tar with its two digests.

GNU tar writes the archive, so that hard links, owners and extended attributes are right; this
module decides what goes in. Called by `bases.py` and tests.
"""

import asyncio
import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import zstandard

from godwit.base import processes
from godwit.images import ocilayout

Codec = Literal["gzip", "zstd"]
Stamp = tuple[int, ...]

_PIECE: Final = 1 << 20
_TAR: Final = (
    "tar", "--create", "--format=posix", "--numeric-owner", "--xattrs",
    "--xattrs-include=security.capability", "--xattrs-include=user.*",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--no-recursion", "--null", "--verbatim-files-from",
)  # fmt: skip


def survey(tree: Path) -> dict[str, Stamp]:
    """Return every path of a tree, relative, with what tells whether it was changed."""
    found: dict[str, Stamp] = {}
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = Path(directory, name)
            at = path.lstat()
            found[str(path.relative_to(tree))] = (
                at.st_mode,
                at.st_uid,
                at.st_gid,
                at.st_size,
                at.st_mtime_ns,
                at.st_ctime_ns,
                at.st_ino,
            )
    return found


async def pack(tree: Path, into: Path, *, codec: Codec) -> ocilayout.LayerBlob:
    """Write a whole tree as a layer."""
    paths = sorted(await asyncio.to_thread(survey, tree))
    return await _pack(tree, [".", *paths], [], into, codec)


async def pack_changes(
    tree: Path, before: dict[str, Stamp], into: Path, *, codec: Codec
) -> ocilayout.LayerBlob:
    """Write what changed in a tree since `before` was surveyed; what is gone as whiteouts."""
    after = await asyncio.to_thread(survey, tree)
    changed = sorted(path for path, stamp in after.items() if before.get(path) != stamp)
    gone = sorted(
        path
        for path in before.keys() - after.keys()
        if str(Path(path).parent) in after or "/" not in path
    )
    return await _pack(tree, changed, gone, into, codec)


async def _pack(
    tree: Path, paths: Sequence[str], gone: Sequence[str], into: Path, codec: Codec
) -> ocilayout.LayerBlob:
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        plain = Path(scratch, "layer.tar")
        sources = await asyncio.to_thread(_listed, tree, paths, gone, Path(scratch))
        await processes.run([*_TAR, f"--file={plain}", *sources], timeout_s=600)
        return await asyncio.to_thread(_compress, plain, into, codec)


def _listed(
    tree: Path, paths: Sequence[str], gone: Sequence[str], scratch: Path
) -> tuple[str, ...]:
    """Write what tar is to take into files, and return the arguments that name them."""
    hollow = scratch / "whiteouts"
    hollow.mkdir()
    marks = [str(Path(path).parent / f".wh.{Path(path).name}") for path in gone]
    for mark in marks:
        (hollow / mark).parent.mkdir(parents=True, exist_ok=True)
        (hollow / mark).touch()
    (scratch / "paths").write_bytes(_null(paths))
    (scratch / "marks").write_bytes(_null(marks))
    taken = ("-C", str(tree), f"--files-from={scratch / 'paths'}")
    return (*taken, "-C", str(hollow), f"--files-from={scratch / 'marks'}")


def _null(paths: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _compress(plain: Path, into: Path, codec: Codec) -> ocilayout.LayerBlob:
    inner, outer = hashlib.sha256(), hashlib.sha256()
    compressor: _Compressor = (
        zlib.compressobj(6, wbits=31)
        if codec == "gzip"
        else zstandard.ZstdCompressor(level=3, threads=-1).compressobj()
    )
    with plain.open("rb") as source, into.open("wb") as sink:
        while piece := source.read(_PIECE):
            inner.update(piece)
            packed = compressor.compress(piece)
            outer.update(packed)
            sink.write(packed)
        packed = compressor.flush()
        outer.update(packed)
        sink.write(packed)
        size = sink.tell()
    return ocilayout.LayerBlob(
        into, codec, f"sha256:{outer.hexdigest()}", f"sha256:{inner.hexdigest()}", size
    )
