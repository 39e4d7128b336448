"""Decoding the fields of tar headers: octal and base-256 numbers, PAX records, times.

Pure functions; used by `tarstream.py` and `sparse.py`.
"""

from typing import Final

_MAX_DIGITS: Final = 20
"""Decimal digits of 2^64."""


class TarError(ValueError):
    """The stream is not a tar archive that can be trusted to mean one thing."""


def number(raw: bytes) -> int:
    """Return a header's number: octal digits, or GNU's base-256 when the top bit is set.

    Raises:
        TarError: It is neither.
    """
    if raw[0] & 0x80:
        bits = len(raw) * 8 - 1
        value = int.from_bytes(raw, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if raw[0] & 0x40 else value
    text = raw.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError as error:
        raise TarError(f"a number in a header is damaged: {text!r}") from error


def decimal(key: bytes, raw: bytes) -> int:
    """Return a PAX record's non-negative number.

    Raises:
        TarError: It is not one.
    """
    if not raw.isdigit() or len(raw) > _MAX_DIGITS:
        raise TarError(f"PAX {key.decode(errors='replace')} is not a number")
    return int(raw)


def nanoseconds(raw: bytes) -> int:
    """Return a PAX time such as `1700000000.25` in nanoseconds.

    Raises:
        TarError: It is not a time.
    """
    whole, _, fraction = raw.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or not (fraction or b"0").isdigit():
        raise TarError("PAX mtime is not a number")
    value = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if whole.startswith(b"-") else value


def pax_records(data: bytes) -> dict[bytes, bytes]:
    r"""Return the records of a PAX header: `<length> <key>=<value>\n`, repeated.

    The repeated records of sparse format 0.0 come back joined under `GNU.sparse.map`.

    Raises:
        TarError: A record is damaged.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + _MAX_DIGITS)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise TarError("a PAX record has no length")
        end = position + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space + 1 < end <= len(data) or not equals or data[end - 1] != ord("\n"):
            raise TarError("a PAX record is damaged")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        records[key] = value
        position = end
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records
