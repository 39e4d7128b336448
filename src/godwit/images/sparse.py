"""The four ways GNU tar writes a sparse file: which bytes of the file are in the archive.

Source: GNU tar manual, "Storing Sparse Files". Pure: receives functions that read on.
Called by `tarstream.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from godwit.images import tarfields
from godwit.images.tarfields import TarError

_BLOCK: Final = 512
_MAX_SEGMENTS: Final = 100_000

Reader = Callable[[int], bytes]


@dataclass(frozen=True)
class SparseMap:
    """Where the content of a sparse file belongs.

    Attributes:
        name: The file's real name when the format hides it, else empty.
        segments: `(offset, length)` of each piece of data, ascending.
    """

    name: bytes
    real_size: int
    segments: tuple[tuple[int, int], ...]


def is_sparse(flag: bytes, pax: Mapping[bytes, bytes]) -> bool:
    """Tell whether an entry is a sparse file in any of the formats."""
    return flag == b"S" or b"GNU.sparse.major" in pax or b"GNU.sparse.map" in pax


def from_header(block: bytes, read_header: Reader) -> SparseMap:
    """Read the oldest format: the map is in the header and in blocks that follow it.

    Raises:
        TarError: The map is damaged.
    """
    segments = _pairs(block[386:482])
    more = block[482] != 0
    real_size = tarfields.number(block[483:495])
    while more:
        extension = read_header(_BLOCK)
        segments += _pairs(extension[:504])
        more = extension[504] != 0
        if len(segments) > _MAX_SEGMENTS:
            raise TarError("a sparse map with too many segments")
    return _checked(b"", real_size, segments)


def from_pax(pax: Mapping[bytes, bytes], read_content: Reader) -> SparseMap:
    """Read formats 0.0 and 0.1 (map in the header) and 1.0 (map before the content).

    Raises:
        TarError: The map is damaged.
    """
    if b"GNU.sparse.major" in pax:
        version = (pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor"))
        if version != (b"1", b"0"):
            raise TarError("a sparse file in an unknown format")
        real_size = tarfields.decimal(b"realsize", pax.get(b"GNU.sparse.realsize", b""))
        numbers = _map_before_content(read_content)
    else:
        real_size = tarfields.decimal(b"size", pax.get(b"GNU.sparse.size", b""))
        listed = pax[b"GNU.sparse.map"]
        numbers = [tarfields.decimal(b"map", n) for n in listed.split(b",")] if listed else []
    if len(numbers) % 2:
        raise TarError("a sparse map with an odd number of numbers")
    segments = list(zip(numbers[::2], numbers[1::2], strict=True))
    return _checked(pax.get(b"GNU.sparse.name", b""), real_size, segments)


def _pairs(raw: bytes) -> list[tuple[int, int]]:
    found = []
    for at in range(0, len(raw), 24):
        if raw[at] == 0:
            break
        offset = tarfields.number(raw[at : at + 12])
        found.append((offset, tarfields.number(raw[at + 12 : at + 24])))
    return found


def _map_before_content(read_content: Reader) -> list[int]:
    buffer = b""

    def line() -> int:
        nonlocal buffer
        while b"\n" not in buffer:
            if len(buffer) > _BLOCK:
                raise TarError("a sparse map without line ends")
            buffer += read_content(_BLOCK)
        text, _, buffer = buffer.partition(b"\n")
        return tarfields.decimal(b"map", text)

    count = line()
    if count > _MAX_SEGMENTS:
        raise TarError("a sparse map with too many segments")
    return [line() for _ in range(2 * count)]


def _checked(name: bytes, real_size: int, segments: list[tuple[int, int]]) -> SparseMap:
    end = 0
    for offset, length in segments:
        if offset < end or length < 0:
            raise TarError("a sparse map whose segments overlap")
        end = offset + length
    if end > real_size:
        raise TarError("a sparse map that reaches past the end of its file")
    return SparseMap(name, real_size, tuple(segments))
