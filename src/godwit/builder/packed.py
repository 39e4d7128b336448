"""Layers compressed once: kept by the digest of their plain tar, for every later push.

Buildah compresses every layer at each push, those of base images too. So it is told to save them
plain, and this puts the compressed ones in their place; a layer that was pushed before costs a
look into `<directory>/<diff_id>-<codec>-<level>`. Called by `buildah.py`.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from concurrent import futures
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import zstandard

from godwit.base.errors import Failure
from godwit.builder.ports import Compression
from godwit.images import ocilayout

_PIECE: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LEVELS: Final[dict[Compression, int]] = {"gzip": 6, "zstd": 3}


@dataclass(frozen=True)
class Packing:
    """How layers are compressed; level `None` is the format's usual one."""

    codec: Compression
    level: int | None = None

    @property
    def effective(self) -> int:
        """Return the level that is used."""
        return _LEVELS[self.codec] if self.level is None else self.level


@dataclass(frozen=True)
class _Known:
    digest: str
    size: int


class PackedLayers:
    """Compressed layers on disk.

    Args:
        directory: Made when missing; may be emptied at any time no build runs.
        most_bytes: More is not kept: what was used longest ago goes.
    """

    def __init__(self, directory: Path, *, most_bytes: int = 5 << 30) -> None:
        self._directory = directory
        self._most_bytes = most_bytes

    def image(self, plain: ocilayout.Layout, into: Path, packing: Packing) -> ocilayout.Layout:
        """Write an image again, its layers compressed; config and annotations stay as they are.

        Raises:
            Failure: `insufficient_capacity` when the disk is full, nothing is left then;
                `internal` when a layer is compressed already.
        """
        try:
            return self._image(plain, into, packing)
        except OSError as error:
            shutil.rmtree(into, ignore_errors=True)
            if error.errno in _FULL:
                raise Failure(
                    "insufficient_capacity", "the disk is full: the image does not fit"
                ) from error
            raise

    def tidy(self) -> None:
        """Remove what was cut off, and what was used longest ago while there is too much."""
        if not self._directory.exists():
            return
        blobs = []
        for path in self._directory.iterdir():
            if path.name.startswith("new-"):
                path.unlink(missing_ok=True)
            elif path.suffix != ".json":
                found = path.stat()
                blobs.append((found.st_mtime_ns, found.st_size, path))
        left = sum(size for _, size, _ in blobs)
        for _, size, path in sorted(blobs):
            if left <= self._most_bytes:
                return
            path.with_name(f"{path.name}.json").unlink(missing_ok=True)
            path.unlink()
            left -= size

    def _image(self, plain: ocilayout.Layout, into: Path, packing: Packing) -> ocilayout.Layout:
        document: dict[str, Any] = json.loads(plain.document)
        diff_ids = plain.config().diff_ids
        # An image may have the same layer twice.
        files: dict[str, Path] = {}
        for layer, diff_id in zip(plain.manifest().layers, diff_ids, strict=True):
            if layer.digest != diff_id:
                raise Failure("internal", f"layer {layer.digest} was not saved plain")
            files[diff_id] = plain.blob(layer.digest)
        # The compressors let go of the interpreter's lock.
        with futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            made = pool.map(lambda one: self._layer(files[one], one, packing), files)
            layers = dict(zip(files, made, strict=True))
        return ocilayout.rewrite(plain, into, document, [layers[one] for one in diff_ids])

    def _layer(self, plain: Path, diff_id: str, packing: Packing) -> ocilayout.LayerBlob:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{diff_id.replace(':', '-')}-{packing.codec}-{packing.effective}"
        path, note = self._directory / name, self._directory / f"{name}.json"
        known = _read(note)
        if known is None or not path.exists() or path.stat().st_size != known.size:
            known = self._compress(plain, path, packing)
            _write(note, known)
        os.utime(path)
        return ocilayout.LayerBlob(path, packing.codec, known.digest, diff_id, known.size)

    def _compress(self, plain: Path, into: Path, packing: Packing) -> _Known:
        digest, size = hashlib.sha256(), 0
        compressor = _compressor(packing)
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix="new-")
        try:
            with plain.open("rb") as source, os.fdopen(descriptor, "wb") as sink:
                while piece := source.read(_PIECE):
                    packed = compressor.compress(piece)
                    digest.update(packed)
                    size += sink.write(packed)
                packed = compressor.flush()
                digest.update(packed)
                size += sink.write(packed)
            Path(name).rename(into)
        finally:
            Path(name).unlink(missing_ok=True)
        return _Known(f"sha256:{digest.hexdigest()}", size)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _compressor(packing: Packing) -> _Compressor:
    if packing.codec == "gzip":
        return zlib.compressobj(packing.effective, wbits=31)
    return zstandard.ZstdCompressor(level=packing.effective, threads=-1).compressobj()


def _read(note: Path) -> _Known | None:
    try:
        return _Known(**json.loads(note.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(note: Path, known: _Known) -> None:
    descriptor, name = tempfile.mkstemp(dir=note.parent, prefix="new-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(known), file)
    Path(name).rename(note)
