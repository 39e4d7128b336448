"""Blobs as streams: bounded memory, whatever they are compressed with."""

import gzip
import hashlib
import tracemalloc

import pytest
import zstandard

from godwit.images import blobstream
from godwit.images.tarfields import TarError


def stream(tmp_path, packed, *, max_bytes=1 << 40, max_ratio=10**9):
    path = tmp_path / "blob"
    path.write_bytes(packed)
    return path, {"max_bytes": max_bytes, "max_ratio": max_ratio}


def drained(tmp_path, packed, **limits):
    path, limits = stream(tmp_path, packed, **limits)
    with blobstream.open_blob(path) as file, blobstream.BlobStream(file, **limits) as one:
        digest = one.finish()
        return digest, one.total


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_the_hash_is_of_the_plain_bytes(tmp_path, pack):
    plain = b"some bytes" * 200_000
    assert drained(tmp_path, pack(plain)) == (hashlib.sha256(plain).hexdigest(), len(plain))


def test_reads_may_be_of_any_size(tmp_path):
    plain = bytes(range(256)) * 10_000
    path, limits = stream(tmp_path, gzip.compress(plain))
    with blobstream.open_blob(path) as file, blobstream.BlobStream(file, **limits) as one:
        got = one.read(1) + one.read(700_001) + b"".join(map(bytes, one.pieces(1_000_000)))
        got += one.read(10**9)
        assert one.read(1) == b""
    assert got == plain


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_takes_little_memory(tmp_path, pack):
    packed = pack(bytes(400 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(blobstream.TooLarge):
            drained(tmp_path, packed, max_bytes=300 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_a_zstd_window_larger_than_usual_is_refused(tmp_path):
    wide = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    packed = packer.compress(bytes(1000)) + packer.flush()
    with pytest.raises(TarError, match="decompressed"):
        drained(tmp_path, packed)


def test_skippable_frames_are_skipped(tmp_path):
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert drained(tmp_path, skippable + zstandard.compress(b"x" * 100))[1] == 100


def test_an_empty_blob_is_an_empty_stream(tmp_path):
    assert drained(tmp_path, b"")[1] == 0


def test_leaving_early_ends_the_thread(tmp_path):
    path, limits = stream(tmp_path, gzip.compress(bytes(100 << 20)))
    with blobstream.open_blob(path) as file, blobstream.BlobStream(file, **limits) as one:
        one.read(10)
    assert not one._thread.is_alive()
