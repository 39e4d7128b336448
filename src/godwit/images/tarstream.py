"""Reading a tar stream from an untrusted source: strict, bounded, without touching the disk.

Reads what container tools write: ustar, PAX (long names, big numbers, extended attributes)
and GNU (long names, base-256 numbers, sparse files). What it does not understand it refuses,
because an entry left out in silence would make a different image. Called by
`godwit.images.layers` and by the builder for build contexts.

The rules for odd headers are those of Go's archive/tar, which every container engine uses:
global PAX headers are ignored, links and directories have no content whatever size they
claim, and a stream may end without its two zero blocks.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from godwit.images import sparse, tarfields
from godwit.images.tarfields import TarError

_BLOCK: Final = 512
_MAX_NAME: Final = 4096
"""PATH_MAX: a longer name could not be made on disk."""
_MAX_META: Final = 1 << 20
"""Bytes of one PAX header or GNU long name."""
_MAX_ID: Final = 2**32 - 2
"""The greatest user id; one more means "leave unchanged" to chown."""

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]

_KINDS: Final[dict[bytes, Kind]] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_META: Final = (b"x", b"g", b"L", b"K")
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_XATTR: Final = b"SCHILY.xattr."
_ZEROS: Final = bytes(_BLOCK)
_TIMES_NS: Final = (-(2**31) * 10**9, (2**34 - 1) * 10**9)
"""What a file system can hold; times beyond are moved to the end of the range."""
_MAX_MAJOR: Final = (1 << 12) - 1
_MAX_MINOR: Final = (1 << 20) - 1


class Source(Protocol):
    """Where the bytes come from."""

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer only at the end of the stream."""

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes as they lie in memory, fewer only at the end."""


@dataclass(slots=True)
class Entry:
    """One member of an archive.

    Attributes:
        name: As written, not cleaned: may be absolute or hold `..`.
        size: Bytes of data that follow in the stream.
        real_size: Size of the file; differs from `size` only for sparse files.
        segments: `(offset, length)` of the data of a sparse file, `None` for an ordinary one.
    """

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    real_size: int = 0
    segments: tuple[tuple[int, int], ...] | None = None


class TarReader:
    """Iterates the entries of a stream; content is read between two entries or skipped.

    Every method raises `TarError` when the stream is damaged or holds what is not supported.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield every entry; the previous one's content is skipped when it was not read."""
        while (entry := self._next()) is not None:
            yield entry

    def content(self, size: int | None = None) -> Iterator[memoryview]:
        """Yield the current entry's data, or the next `size` bytes of it, in pieces."""
        want = self._left if size is None else min(size, self._left)
        got = 0
        for piece in self._source.pieces(want):
            got += len(piece)
            self._left -= len(piece)
            yield piece
        if got != want or (size is not None and size != want):
            raise TarError("ends in the middle of a file")

    def _next(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        name = link = b""
        while True:
            self._skip()
            block = self._source.read(_BLOCK)
            if not block or block == _ZEROS:
                self._finish(block)
                return None
            entry, flag = _parse(block)
            if flag not in _META:
                entry.name = name or entry.name
                entry.link = link or entry.link
                return self._complete(entry, flag, pax, block)
            data = self._meta(entry.size)
            if flag == b"x":
                pax = tarfields.pax_records(data)
            elif flag == b"L":
                name = data.rstrip(b"\0")
            elif flag == b"K":
                link = data.rstrip(b"\0")

    def _complete(self, entry: Entry, flag: bytes, pax: dict[bytes, bytes], block: bytes) -> Entry:
        if pax:
            _apply_pax(entry, pax)
        if entry.kind == "file" and entry.name.endswith(b"/"):
            entry.kind = "dir"
        if entry.kind != "file":
            entry.size = 0
        entry.real_size = entry.size
        self._left = entry.size
        self._padding = -entry.size % _BLOCK
        if entry.kind == "file" and sparse.is_sparse(flag, pax):
            self._expand(entry, flag, pax, block)
        _check(entry)
        return entry

    def _expand(self, entry: Entry, flag: bytes, pax: dict[bytes, bytes], block: bytes) -> None:
        found = (
            sparse.from_header(block, lambda size: self._exactly(size, "a sparse map"))
            if flag == b"S"
            else sparse.from_pax(pax, lambda size: b"".join(self.content(size)))
        )
        if sum(length for _, length in found.segments) != self._left:
            raise TarError("a sparse map that does not fit its data")
        entry.name = found.name or entry.name
        entry.size = self._left
        entry.real_size = found.real_size
        entry.segments = found.segments

    def _skip(self) -> None:
        for _ in self.content():
            pass
        if self._padding:
            self._exactly(self._padding, "a file's padding")
            self._padding = 0

    def _meta(self, size: int) -> bytes:
        if size > _MAX_META:
            raise TarError(f"an extended header of {size} bytes; at most {_MAX_META} are read")
        padded = self._exactly(size + -size % _BLOCK, "an extended header")
        return padded[:size]

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise TarError(f"ends in the middle of {what}")
        return data

    def _finish(self, block: bytes) -> None:
        if block and self._source.read(_BLOCK).strip(b"\0"):
            raise TarError("a lone block of zeros between entries")


def _parse(block: bytes) -> tuple[Entry, bytes]:
    if len(block) != _BLOCK:
        raise TarError("ends in the middle of a header")
    name, mode, uid, gid, size, mtime, check, flag, link, magic, major, minor, prefix = (
        _HEADER.unpack(block)
    )
    number = tarfields.number
    if sum(block[:148]) + sum(block[156:]) + 256 != number(check):
        raise TarError("a header's checksum is wrong")
    name = name.split(b"\0", 1)[0]
    if prefix[0] and magic == b"ustar\x0000":
        name = prefix.split(b"\0", 1)[0] + b"/" + name
    kind = "file" if flag in _META else _KINDS.get(flag)
    if kind is None:
        raise TarError(f"an entry of unknown type {flag!r}")
    length = number(size)
    if length < 0:
        raise TarError("a negative size")
    entry = Entry(
        name=name,
        kind=kind,
        mode=number(mode) & 0o7777,
        uid=number(uid),
        gid=number(gid),
        size=length,
        mtime_ns=number(mtime) * 1_000_000_000,
        link=link.split(b"\0", 1)[0],
    )
    if kind in ("char", "block"):
        entry.major, entry.minor = number(major), number(minor)
    return entry, flag


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"mtime":
            entry.mtime_ns = tarfields.nanoseconds(value)
        elif key in (b"size", b"uid", b"gid"):
            setattr(entry, key.decode(), tarfields.decimal(key, value))
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value


def _check(entry: Entry) -> None:
    if not entry.name or b"\0" in entry.name:
        raise TarError("an entry without a name, or with a NUL in it")
    if len(entry.name) > _MAX_NAME or len(entry.link) > _MAX_NAME:
        raise TarError(f"a name longer than {_MAX_NAME} bytes")
    if entry.kind in ("symlink", "hardlink") and (not entry.link or b"\0" in entry.link):
        raise TarError("a link without a target, or with a NUL in it")
    if any("\0" in name for name in entry.xattrs):
        raise TarError("an extended attribute with a NUL in its name")
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        raise TarError("an owner that is not a user id")
    if not (0 <= entry.major <= _MAX_MAJOR and 0 <= entry.minor <= _MAX_MINOR):
        raise TarError("a device number that does not exist")
    entry.mtime_ns = min(max(entry.mtime_ns, _TIMES_NS[0]), _TIMES_NS[1])
