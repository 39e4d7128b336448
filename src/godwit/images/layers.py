"""Applying an image's layers to a directory: limits, whiteouts, sparse files, diff ids.

Normally called in a process of its own (`unpack.py`, started by `flatten.py`); kept free of
heavy imports for that process's sake.

Sources: OCI image-spec v1.1, layer.md. A whiteout hides only what lower layers have, in
whatever order the entries of its layer come.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from godwit.base.errors import Failure
from godwit.images import blobstream, tarstream, tree
from godwit.images.tarfields import TarError

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."


@dataclass(frozen=True)
class Limits:
    """What an image may take.

    Attributes:
        max_bytes: All files together, holes of sparse files included.
        max_entries: Entries of all layers together.
        max_ratio: Unpacked to packed size, for what is larger than 64 MiB.
        max_memory_bytes: What the process that applies them may take (`unpack.py`).
    """

    max_bytes: int = 32 << 30
    max_entries: int = 2_000_000
    max_ratio: int = 300
    max_memory_bytes: int = 3 << 30


@dataclass(frozen=True)
class LayerFile:
    """A layer on disk: gzip, zstd or plain tar, told apart by its first bytes.

    Attributes:
        name: What to call it in messages: `layer sha256:…`.
        diff_id: `sha256:…` of the plain tar, empty when unknown.
    """

    path: Path
    name: str
    diff_id: str = ""


@dataclass(frozen=True)
class Flattened:
    """What came out.

    Attributes:
        newest_ns: The greatest modification time in the image.
    """

    entries: int
    size_bytes: int
    newest_ns: int


def apply(
    layers: Sequence[tuple[LayerFile, BinaryIO]],
    root: bytes,
    limits: Limits,
    *,
    ordinary: bool = False,
) -> Flattened:
    """Apply layers, lowest first, to an existing empty directory that nobody else touches.

    Args:
        layers: With their opened files.
        root: The directory.
        limits: For all layers together.
        ordinary: They are ordinary archives, such as build contexts: names that look like
            whiteouts mean nothing, devices and pipes are refused.

    Raises:
        Failure: `invalid_argument` for a damaged or hostile layer.
        OSError: The disk does not take it.
    """
    applier = _Applier(tree.Tree(root), limits, ordinary=ordinary)
    for layer, file in layers:
        applier.apply(layer, file)
    return applier.finish()


class _Applier:
    """Counts what all layers take together."""

    def __init__(self, target: tree.Tree, limits: Limits, *, ordinary: bool) -> None:
        self._ordinary = ordinary
        self._tree = target
        self._limits = limits
        self._entries = 0
        self._bytes = 0

    def apply(self, layer: LayerFile, file: BinaryIO) -> None:
        limits = self._limits
        self._tree.next_layer()
        try:
            with blobstream.BlobStream(
                file, max_bytes=2 * limits.max_bytes, max_ratio=limits.max_ratio
            ) as stream:
                reader = tarstream.TarReader(stream)
                for entry in reader:
                    self._count(entry)
                    self._one(entry, reader)
                found = f"sha256:{stream.finish()}"
        except (TarError, tree.Hostile, blobstream.TooLarge) as error:
            raise Failure("invalid_argument", f"{layer.name}: {error}") from error
        if layer.diff_id and found != layer.diff_id:
            raise Failure(
                "invalid_argument",
                f"{layer.name} unpacks to {found}; the image config says {layer.diff_id}",
            )

    def finish(self) -> Flattened:
        self._tree.finish()
        return Flattened(self._entries, self._bytes, self._tree.newest_ns)

    def _count(self, entry: tarstream.Entry) -> None:
        self._entries += 1
        self._bytes += entry.real_size
        if self._entries > self._limits.max_entries:
            raise blobstream.TooLarge(f"more than {self._limits.max_entries} entries")
        if self._bytes > self._limits.max_bytes:
            raise blobstream.TooLarge(f"unpacks to more than {self._limits.max_bytes} bytes")

    def _one(self, entry: tarstream.Entry, reader: tarstream.TarReader) -> None:
        if self._ordinary:
            if entry.kind in ("char", "block", "fifo"):
                raise tree.Hostile(f"holds a {entry.kind} device or pipe")
        elif _WHITEOUT in entry.name:
            parts = tree.clean(entry.name)
            if any(part.startswith(_WHITEOUT) for part in parts):
                self._whiteout(parts)
                return
        self._tree.put(entry, lambda descriptor: _write(descriptor, entry, reader))

    def _whiteout(self, parts: list[bytes]) -> None:
        directory, name = parts[:-1], parts[-1]
        if name == _OPAQUE:
            self._tree.hide_all(directory)
        elif any(part.startswith(_AUFS) for part in parts):
            return
        elif any(part.startswith(_WHITEOUT) for part in directory):
            raise tree.Hostile("an entry below a whiteout")
        else:
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in (b"", b".", b".."):
                raise tree.Hostile("a whiteout of no name")
            self._tree.hide(directory, hidden)


def _write(descriptor: int, entry: tarstream.Entry, reader: tarstream.TarReader) -> None:
    if entry.segments is None:
        for piece in reader.content():
            _write_all(descriptor, piece)
        return
    os.ftruncate(descriptor, entry.real_size)
    for offset, length in entry.segments:
        os.lseek(descriptor, offset, os.SEEK_SET)
        for piece in reader.content(length):
            _write_all(descriptor, piece)


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
