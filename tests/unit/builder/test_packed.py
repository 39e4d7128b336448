"""Layers compressed once: same image, same bytes, and no work the second time."""

import errno
import gzip
import hashlib
import json
import os

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.base import errors
from godwit.builder import packed
from godwit.images import ocilayout
from tests.unit.images.making import Tar


def plain(tmp_path, *contents):
    """Return an image with plain layers, as Buildah saves it."""
    directory = tmp_path / f"plain-{len(list(tmp_path.iterdir()))}"
    (directory / "blobs/sha256").mkdir(parents=True)

    def put(body):
        digest = hashlib.sha256(body).hexdigest()
        (directory / "blobs/sha256" / digest).write_bytes(body)
        return {"digest": f"sha256:{digest}", "size": len(body)}

    layers = [put(Tar().add("f", content).bytes()) for content in contents]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "history": [{"created_by": "x"}],
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": {
            **put(json.dumps(config).encode()),
            "mediaType": "application/vnd.oci.image.config.v1+json",
        },
        "layers": [
            {**one, "mediaType": "application/vnd.oci.image.layer.v1.tar"} for one in layers
        ],
        "annotations": {"org.opencontainers.image.base.name": "base"},
    }
    described = put(json.dumps(manifest).encode())
    index = {"schemaVersion": 2, "manifests": [described]}
    (directory / "index.json").write_text(json.dumps(index))
    return ocilayout.read(directory)


def unpack(codec, body):
    if codec == "gzip":
        return gzip.decompress(body)
    return zstandard.ZstdDecompressor().decompressobj().decompress(body)


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(contents=st.lists(st.binary(max_size=300), min_size=1, max_size=3))
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_every_layer_holds_what_it_held(tmp_path_factory, codec, contents):
    tmp_path = tmp_path_factory.mktemp("image")
    source = plain(tmp_path, *contents)
    one = packed.PackedLayers(tmp_path / "packed")
    made = one.image(source, tmp_path / "made", packed.Packing(codec, 1))
    assert made.config() == source.config()
    assert made.manifest().config == source.manifest().config
    before, after = json.loads(source.document), json.loads(made.document)
    assert after["annotations"] == before["annotations"]
    for was, now in zip(source.manifest().layers, made.manifest().layers, strict=True):
        body = made.blob(now.digest).read_bytes()
        assert f"sha256:{hashlib.sha256(body).hexdigest()}" == now.digest
        assert len(body) == now.size
        assert now.media_type.endswith(f"tar+{codec}")
        assert unpack(codec, body) == source.blob(was.digest).read_bytes()


def test_a_layer_is_compressed_once(tmp_path):
    one = packed.PackedLayers(tmp_path / "packed")
    first = one.image(plain(tmp_path, b"base", b"a"), tmp_path / "1", packed.Packing("gzip", 1))
    (tmp_path / "packed").chmod(0o500)
    again = plain(tmp_path, b"base", b"a")
    # The content is not even read: what is there is known by its name.
    for layer in again.manifest().layers:
        again.blob(layer.digest).write_bytes(b"")
    second = one.image(again, tmp_path / "2", packed.Packing("gzip", 1))
    assert second.digest == first.digest


def test_levels_and_formats_do_not_mix(tmp_path):
    one = packed.PackedLayers(tmp_path / "packed")
    source = plain(tmp_path, os.urandom(2_000).hex().encode())
    ways = (packed.Packing("gzip", 1), packed.Packing("gzip"), packed.Packing("zstd"))
    made = [one.image(source, tmp_path / str(n), way).digest for n, way in enumerate(ways)]
    assert len(set(made)) == 3


@pytest.mark.parametrize("damage", ["note", "cut", "blob"])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    one = packed.PackedLayers(tmp_path / "packed")
    first = one.image(plain(tmp_path, b"a"), tmp_path / "1", packed.Packing("gzip", 1))
    (note,) = (tmp_path / "packed").glob("*.json")
    blob = note.with_suffix("")
    if damage == "note":
        note.write_text("{")
    elif damage == "cut":
        os.truncate(blob, 3)
    else:
        blob.unlink()
    second = one.image(plain(tmp_path, b"a"), tmp_path / "2", packed.Packing("gzip", 1))
    assert second.digest == first.digest


def test_what_was_used_longest_ago_goes_first_and_what_was_cut_off_in_any_case(tmp_path):
    place = tmp_path / "packed"
    one = packed.PackedLayers(place, most_bytes=4_000)
    for number in range(3):
        source = plain(tmp_path, os.urandom(1_500))
        one.image(source, tmp_path / f"made-{number}", packed.Packing("gzip", 1))
    blobs = [path for path in place.iterdir() if path.suffix != ".json"]
    for age, path in enumerate(sorted(blobs)):
        os.utime(path, (1_000 - age, 1_000 - age))
    (place / "new-cut-off").write_bytes(b"x")
    one.tidy()
    left = sorted(path for path in place.iterdir() if path.suffix != ".json")
    assert left == sorted(blobs)[:2]
    assert {path.with_suffix("").name for path in place.glob("*.json")} == {p.name for p in left}


def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path):
    class Full(packed.PackedLayers):
        def _layer(self, *_):
            raise OSError(errno.ENOSPC, "no space")

    one = Full(tmp_path / "packed")
    with pytest.raises(packed.Failure, match="disk is full"):
        one.image(plain(tmp_path, b"a"), tmp_path / "made", packed.Packing("gzip", 1))
    assert not (tmp_path / "made").exists()


def test_a_layer_that_is_not_plain_is_refused_and_not_kept(tmp_path):
    image = plain(tmp_path, b"x")
    (layer,) = json.loads(image.document)["layers"]
    squeezed = gzip.compress(image.blob(layer["digest"]).read_bytes())
    digest = f"sha256:{hashlib.sha256(squeezed).hexdigest()}"
    image.blob(digest).write_bytes(squeezed)
    document = image.document.replace(layer["digest"].encode(), digest.encode())
    odd = ocilayout.Layout(image.directory, image.digest, document, image.media_type)
    layers = packed.PackedLayers(tmp_path / "packed")
    with pytest.raises(errors.Failure, match="not saved plain"):
        layers.image(odd, tmp_path / "out", packed.Packing("gzip"))
    assert not (tmp_path / "packed").exists()
