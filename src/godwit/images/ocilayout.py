"""An image in a directory: the OCI image layout, read and written.

Bases built from Debian packages are kept so (`bases.py`); Buildah reads them, `publish.py`
pushes them, and benchmarks take their layers from them.

Source: OCI image-spec v1.1, image-layout.md.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from godwit.base import errors
from godwit.images import manifests

_HEX: Final = 64
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_LAYER_TYPES: Final = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


@dataclass(frozen=True)
class LayerBlob:
    """A finished layer: its compressed file and the digest of its plain tar."""

    path: Path
    compression: str
    digest: str
    diff_id: str
    size: int

    @property
    def descriptor(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return _descriptor(_LAYER_TYPES[self.compression], self.digest, self.size)


@dataclass(frozen=True)
class Layout:
    """An image in a directory, with one manifest.

    Attributes:
        digest: The manifest's.
        document: The manifest as stored.
    """

    directory: Path
    digest: str
    document: bytes = field(repr=False)
    media_type: str

    def blob(self, digest: str) -> Path:
        """Return where a blob lies."""
        return _blob(self.directory, digest)

    def manifest(self) -> manifests.Manifest:
        """Return the manifest."""
        parsed = manifests.parse(self.document, self.media_type, str(self.directory))
        if isinstance(parsed, manifests.Index):
            raise manifests.nested(str(self.directory))
        return parsed

    def config(self) -> manifests.Config:
        """Return the image's config."""
        return manifests.config(
            self.blob(self.manifest().config.digest).read_bytes(), str(self.directory)
        )


def read(directory: Path) -> Layout:
    """Open a layout that holds one image.

    Raises:
        Failure: `invalid_argument` when it is none, or its manifest is damaged.
    """
    try:
        index = json.loads((directory / "index.json").read_bytes())
        (entry,) = {one["digest"]: one for one in index["manifests"]}.values()
        digest, media_type = str(entry["digest"]), str(entry.get("mediaType", ""))
        document = _blob(directory, digest).read_bytes()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise errors.invalid(
            f"{directory} is not an OCI layout with one image: {error}"
        ) from error
    if _sha256(document) != digest:
        raise errors.invalid(f"the manifest in {directory} is damaged")
    return Layout(directory, digest, document, media_type or manifests.OCI_MANIFEST)


def write(
    directory: Path,
    layers: Sequence[LayerBlob],
    *,
    config: Mapping[str, Any],
    names: Sequence[str],
    annotations: Mapping[str, str] | None = None,
) -> Layout:
    """Write an image; layers are linked where the file system allows, else copied.

    Args:
        directory: Must not exist.
        layers: Lowest first.
        config: `created`, `config` and what else belongs beside `rootfs`. A `history` must name
            every layer, or Buildah cannot build upon the image.
        names: What to find it under in the layout.
        annotations: Of the manifest.
    """
    (directory / "blobs" / "sha256").mkdir(parents=True)
    for layer in layers:
        _place(layer.path, _blob(directory, layer.digest))
    full = {
        "architecture": manifests.ARCHITECTURE,
        "os": "linux",
        "history": [{"created_by": "godwit"} for _ in layers],
        **config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    config_descriptor = _store(directory, manifests.OCI_CONFIG, full)
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifests.OCI_MANIFEST,
        "config": config_descriptor,
        "layers": [layer.descriptor for layer in layers],
        "annotations": dict(annotations or {}),
    }
    described = _store(directory, manifests.OCI_MANIFEST, manifest)
    entries = [{**described, "annotations": {_REF_NAME: name}} for name in names]
    _dump(directory / "index.json", {"schemaVersion": 2, "manifests": entries})
    _dump(directory / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    return read(directory)


def from_loose(loose: Path, directory: Path) -> Layout:
    """Make a layout of the files of an image in the format `dir:`, which are moved.

    Args:
        loose: Holds `manifest.json` and the blobs by the hex of their digests.
        directory: Must not exist.

    Source: containers/image, directory/directory_transport.go.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for path in loose.iterdir():
        if len(path.name) == _HEX:
            path.rename(blobs / path.name)
    body = (loose / "manifest.json").read_bytes()
    digest = _sha256(body)
    _blob(directory, digest).write_bytes(body)
    described = _descriptor(manifests.OCI_MANIFEST, digest, len(body))
    _dump(directory / "index.json", {"schemaVersion": 2, "manifests": [described]})
    _dump(directory / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    shutil.rmtree(loose)
    return read(directory)


def rewrite(
    source: Layout, directory: Path, document: Mapping[str, Any], layers: Sequence[LayerBlob]
) -> Layout:
    """Write an image again with other blobs for its layers; its config stays byte for byte.

    Args:
        source: The image.
        directory: Must not exist.
        document: Its manifest, parsed.
        layers: In the order of those they replace, each of the same plain content.
    """
    (directory / "blobs" / "sha256").mkdir(parents=True)
    for layer in layers:
        _place(layer.path, _blob(directory, layer.digest))
    config = source.manifest().config.digest
    _place(source.blob(config), _blob(directory, config))
    manifest = {**document, "layers": [layer.descriptor for layer in layers]}
    described = _store(directory, source.media_type, manifest)
    _dump(directory / "index.json", {"schemaVersion": 2, "manifests": [described]})
    _dump(directory / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    return read(directory)


def _store(directory: Path, media_type: str, document: Mapping[str, Any]) -> dict[str, Any]:
    body = json.dumps(document, sort_keys=True).encode()
    digest = _sha256(body)
    _blob(directory, digest).write_bytes(body)
    return _descriptor(media_type, digest, len(body))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _blob(directory: Path, digest: str) -> Path:
    return directory / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _place(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, sort_keys=True))


def _sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
