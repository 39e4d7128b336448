"""The tar reader against Python's own writer, and against damage."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from godwit.images import tarstream
from godwit.images.tarfields import TarError


class Memory:
    """Bytes as a source, in pieces of an awkward size."""

    def __init__(self, data, piece=700):
        self._file = io.BytesIO(data)
        self._piece = piece

    def read(self, size):
        return self._file.read(size)

    def pieces(self, size):
        while size and (piece := self._file.read(min(size, self._piece))):
            size -= len(piece)
            yield memoryview(piece)


def read(data):
    """Return every entry with its content."""
    reader = tarstream.TarReader(Memory(data))
    return [(entry, b"".join(map(bytes, reader.content()))) for entry in reader]


def written(entries, tar_format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


names = st.lists(
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=90
    ),
    min_size=1,
    max_size=4,
).map("/".join)


@st.composite
def members(draw):
    info = tarfile.TarInfo(draw(names))
    info.mode = draw(st.integers(0, 0o7777))
    info.uid = draw(st.sampled_from([0, 1000, 0o7777777, 2**31]))
    info.gid = draw(st.sampled_from([0, 65534, 2**31]))
    info.mtime = draw(st.sampled_from([0, 1, 1_700_000_000, 2**34 - 1]))
    info.type = draw(
        st.sampled_from(
            [
                tarfile.REGTYPE,
                tarfile.DIRTYPE,
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
            ]
        )
    )
    if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(names)
    if info.type == tarfile.CHRTYPE:
        info.devmajor, info.devminor = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    content = draw(st.binary(max_size=2000)) if info.type == tarfile.REGTYPE else b""
    return info, content


@settings(max_examples=60)
@given(st.lists(members(), max_size=5), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_what_pythons_writer_wrote_is_read_back(entries, tar_format):
    found = read(written(entries, tar_format))
    assert len(found) == len(entries)
    kinds = {
        tarfile.REGTYPE: "file",
        tarfile.DIRTYPE: "dir",
        tarfile.SYMTYPE: "symlink",
        tarfile.LNKTYPE: "hardlink",
        tarfile.FIFOTYPE: "fifo",
        tarfile.CHRTYPE: "char",
    }
    for (entry, content), (info, expected) in zip(found, entries, strict=True):
        assert entry.kind == kinds[info.type]
        assert entry.name.rstrip(b"/") == info.name.encode()
        assert (entry.mode, entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
        assert entry.mtime_ns == info.mtime * 10**9
        assert content == expected
        if entry.kind in ("symlink", "hardlink"):
            assert entry.link == info.linkname.encode()
        if entry.kind == "char":
            assert (entry.major, entry.minor) == (info.devmajor, info.devminor)


def one(name="f", content=b"hello", **more):
    info = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(info, key, value)
    return written([(info, content)], tarfile.PAX_FORMAT)


@settings(max_examples=150)
@given(st.data())
def test_any_damage_is_an_error_or_another_archive_never_a_crash(data):
    whole = bytearray(one(content=bytes(600), pax_headers={"SCHILY.xattr.user.a": "b"}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TarError):
        read(bytes(whole))


@given(st.binary(max_size=1500))
def test_noise_is_never_a_crash(noise):
    with contextlib.suppress(TarError):
        read(noise)


def raw(block=b"", **fields):
    """Return a header with fields overwritten and the checksum made right."""
    header = bytearray(tarfile.TarInfo("f").tobuf(tarfile.GNU_FORMAT))
    places = {"mode": 100, "uid": 108, "size": 124, "flag": 156, "magic": 257, "major": 329}
    for key, value in fields.items():
        header[places[key] : places[key] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header) + block


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (raw(size=b"\xff" * 12), "negative"),
        (raw(size=b"99999999999"), "damaged"),
        (raw(flag=b"Z"), "unknown type"),
        (raw(flag=b"M"), "unknown type"),
        (raw(uid=b"\xff" * 8), "user id"),
        (raw(flag=b"3", major=b"7777777\0"), "device number"),
        (raw(flag=b"x", size=b"00777777777"), "extended header"),
        (raw(flag=b"2"), "without a target"),
        (raw(flag=b"x", size=b"00000000004", block=b"abcd" + bytes(508)), "PAX record"),
        (raw(flag=b"x", size=b"00000000014", block=b"12 path=a\0b\n" + bytes(500)) + raw(), "NUL"),
        (
            raw(flag=b"x", size=b"00000000013", block=b"11 size=-5\n" + bytes(501)) + raw(),
            "not a number",
        ),
        (raw(flag=b"L", size=b"00000020000", block=b"a" * 8192) + raw(), "longer"),
        (raw()[:-1], "middle of a header"),
        (raw()[:150] + b"\0" + raw()[151:], "checksum"),
        (bytes(512) + raw(), "lone block"),
    ],
)
def test_what_cannot_be_trusted_is_refused(data, why):
    with pytest.raises(TarError, match=why):
        read(data)


def test_a_name_that_ends_in_a_slash_is_a_directory_in_old_archives():
    header = bytearray(raw(flag=b"\0", magic=bytes(8)))
    header[1:2] = b"/"
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    ((entry, _),) = read(bytes(header))
    assert (entry.kind, entry.name) == ("dir", b"f/")


def test_global_headers_are_ignored():
    header = raw(flag=b"g", size=b"00000000012", block=b"10 uid=77\n" + bytes(502))
    ((entry, _),) = read(header + one())
    assert entry.uid == 0


def test_links_have_no_content_whatever_they_claim():
    link = bytearray(tarfile.TarInfo("l").tobuf(tarfile.GNU_FORMAT))
    link = raw(flag=b"5", size=b"00000001000")
    found = read(link + one())
    assert [entry.kind for entry, _ in found] == ["dir", "file"]


def test_an_archive_may_end_without_zeros():
    assert len(read(one().rstrip(b"\0").ljust(1024, b"\0"))) == 1


def test_binary_attributes_are_read():
    headers = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
    ((entry, _),) = read(one(pax_headers=headers))
    assert entry.xattrs == {"security.capability": b"\x01\x00\x00\x02"}
