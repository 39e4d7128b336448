"""A layer's file as a stream of plain bytes: decompressed, counted, hashed, bounded.

A thread of its own reads and decompresses ahead (zlib, zstd and sha256 let go of the
interpreter lock), so that it overlaps with writing the tree. Memory is bounded by a short
queue of pieces of bounded size: neither codec is ever asked for "all of the output".
"""

import contextlib
import hashlib
import queue
import threading
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

import zstandard

from godwit.images.tarfields import TarError

_READ: Final = 128 * 1024
_PIECE: Final = 512 * 1024
_AHEAD: Final = 8
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"
_ZSTD_WINDOW: Final = 1 << 27
"""128 MiB, what `zstd -d` allows; a stream may not make us reserve more."""
_RATIO_FROM: Final = 64 << 20
"""Small layers of one repeated byte are common (empty files, zero padding) and harmless."""


class TooLarge(Exception):
    """The stream holds more than it may."""


class BlobStream:
    """The decompressed bytes of one blob; a `tarstream.Source`.

    Attributes:
        total: Plain bytes seen so far.
    """

    def __init__(self, file: BinaryIO, *, max_bytes: int, max_ratio: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="decompress", daemon=True)
        self._piece = memoryview(b"")
        self._ended = False
        self.total = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join()

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer only at the end of the stream."""
        piece = self._piece
        if len(piece) >= size:
            self._piece = piece[size:]
            return bytes(piece[:size])
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes as they lie in memory, fewer only at the end."""
        while size > 0:
            if not self._piece and not self._fill():
                return
            piece = self._piece[:size]
            self._piece = self._piece[len(piece) :]
            size -= len(piece)
            yield piece

    def finish(self) -> str:
        """Read to the end and return the sha256 of all plain bytes, in hex."""
        while self._fill():
            pass
        return self._hash.hexdigest()

    def _fill(self) -> bool:
        if self._ended:
            return False
        item = self._queue.get()
        if isinstance(item, bytes):
            self._piece = memoryview(item)
            return True
        self._ended = True
        self._piece = memoryview(b"")
        if item is not None:
            raise item
        return False

    def _pump(self) -> None:
        end: Exception | None = None
        try:
            for piece in _decompressed(self._file):
                self.total += len(piece)
                self._check_size()
                self._hash.update(piece)
                if not self._put(piece):
                    return
        except (zlib.error, zstandard.ZstdError, EOFError) as error:
            end = TarError(f"cannot be decompressed: {error}")
        except (TooLarge, OSError, MemoryError) as error:
            end = error
        self._put(end)

    def _check_size(self) -> None:
        if self.total > self._max_bytes:
            raise TooLarge(f"unpacks to more than {self._max_bytes} bytes")
        packed = self._file.tell()
        if self.total > _RATIO_FROM and self.total > packed * self._max_ratio:
            raise TooLarge(f"unpacks to more than {self._max_ratio} times its size")

    def _put(self, item: bytes | Exception | None) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return True
        return False


def open_blob(path: Path) -> BinaryIO:
    """Open a blob for `BlobStream`: unbuffered, so that `tell` says what was consumed."""
    return path.open("rb", buffering=0)


def _decompressed(file: BinaryIO) -> Generator[bytes]:
    head = file.read(4)
    file.seek(0)
    if head.startswith(_GZIP):
        yield from _gunzip(file)
    elif head == _ZSTD or (len(head) == len(_ZSTD) and head[1:] == _ZSTD_SKIPPABLE):
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
            file, read_size=_READ, read_across_frames=True, closefd=False
        )
        while piece := reader.read(_PIECE):
            yield piece
    else:
        while piece := file.read(_PIECE):
            yield piece


def _gunzip(file: BinaryIO) -> Generator[bytes]:
    """Decompress one gzip member after the other; zeros after the last are padding."""
    data = file.read(_READ)
    while data:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = member.decompress(data, _PIECE)
            if piece:
                yield piece
            if not data and not piece and not member.eof:
                raise EOFError("the gzip stream is cut off")
            data = member.unconsumed_tail or (b"" if member.eof else file.read(_READ))
        data = member.unused_data or file.read(_READ)
        while data and not data.strip(b"\0"):
            data = file.read(_READ)
