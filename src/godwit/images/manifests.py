"""Manifests, indexes and configs of images: parsed strictly, platform chosen. Pure.

Called by `registry.py`, `resolver.py`, `store.py` and `ocilayout.py`.

Sources: OCI image-spec v1.1 (manifest.md, image-index.md, config.md), Docker image manifest
v2 schema 2. Where a manifest carries no `mediaType`, the Content-Type header says what it is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from godwit.base import errors
from godwit.images import reference
from godwit.images.config import ImageConfig

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
ACCEPT: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)

_LAYERS: Final = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_MAX_LAYERS: Final = 500
_OS: Final = "linux"
ARCHITECTURE: Final = "amd64"
"""The only one guests have; spec/config-cli.md §5.4."""


@dataclass(frozen=True)
class Document:
    """A manifest or index as it came, its digest computed from its bytes."""

    digest: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Descriptor:
    """A blob or manifest: what it is, how long, and its digest."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Index:
    """A choice of images: `(platform, manifest)`, platform as `os/architecture[/variant]`."""

    choices: tuple[tuple[str, Descriptor], ...]


@dataclass(frozen=True)
class Config:
    """An image's config: what runs, and the digests of the plain layers."""

    runtime: ImageConfig
    diff_ids: tuple[str, ...]
    created: str


def parse(body: bytes, content_type: str, name: str) -> Manifest | Index:
    """Return the manifest or index in a registry's answer.

    Args:
        body: The document, its digest already verified.
        content_type: The Content-Type it came with, used when it names no `mediaType`.
        name: What to call it in messages.

    Raises:
        Failure: `invalid_argument` when it is neither, or not of a container image.
    """
    document = _object(body, f"the manifest of {name}")
    kind = document.get("mediaType") or content_type.partition(";")[0].strip()
    if kind not in ACCEPT:
        kind = _guess(document) or kind
    try:
        if kind in (OCI_INDEX, DOCKER_LIST):
            return _index(document)
        if kind in (OCI_MANIFEST, DOCKER_MANIFEST):
            return _manifest(document, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.invalid(f"the manifest of {name} is damaged: {error!r}") from error
    if document.get("schemaVersion") == 1:
        raise errors.invalid(
            f"{name} has a manifest of the long deprecated schema 1",
            hint="push the image again with a current tool",
        )
    raise errors.invalid(f"{name} is not a container image: its manifest is of type {kind!r}")


def choose(index: Index, name: str) -> Descriptor:
    """Return the manifest for this platform.

    Raises:
        Failure: `invalid_argument`, saying which platforms there are.
    """
    for platform, descriptor in index.choices:
        if platform.split("/")[:2] == [_OS, ARCHITECTURE]:
            return descriptor
    there = sorted({p for p, _ in index.choices if not p.startswith("unknown")})
    raise _wrong_platform(name, there)


def nested(name: str) -> errors.Failure:
    """Return the failure for an index where an image has to be."""
    return errors.invalid(f"{name} is an index of indexes, which no tool makes: it cannot be used")


def config(body: bytes, name: str) -> Config:
    """Return an image's config.

    Raises:
        Failure: `invalid_argument` when it is damaged or for another platform.
    """
    document = _object(body, f"the config of {name}")
    platform = f"{document.get('os') or _OS}/{document.get('architecture') or ARCHITECTURE}"
    if platform != f"{_OS}/{ARCHITECTURE}":
        raise _wrong_platform(name, [platform])
    try:
        run = document.get("config") or {}
        return Config(
            runtime=_runtime(run),
            diff_ids=tuple(str(d) for d in document["rootfs"]["diff_ids"]),
            created=str(document.get("created") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.invalid(f"the config of {name} is damaged: {error!r}") from error


def _runtime(run: Mapping[str, Any]) -> ImageConfig:
    return ImageConfig(
        entrypoint=_strings(run.get("Entrypoint")),
        cmd=_strings(run.get("Cmd")),
        env=_strings(run.get("Env")),
        working_directory=str(run.get("WorkingDir") or ""),
        user=str(run.get("User") or ""),
        stop_signal=str(run.get("StopSignal") or ""),
        exposed_ports=_strings(sorted(run.get("ExposedPorts") or {})),
        volumes=_strings(sorted(run.get("Volumes") or {})),
        labels={str(k): str(v) for k, v in (run.get("Labels") or {}).items()},
    )


def _strings(values: Sequence[Any] | None) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError("a string in place of a list")
    return tuple(str(value) for value in values or ())


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise errors.invalid(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise errors.invalid(f"{what} is not a JSON object")
    return document


def _guess(document: Mapping[str, Any]) -> str:
    if isinstance(document.get("manifests"), list):
        return OCI_INDEX
    if isinstance(document.get("layers"), list) and isinstance(document.get("config"), dict):
        return OCI_MANIFEST
    return ""


def _index(document: Mapping[str, Any]) -> Index:
    return Index(
        tuple((_platform(one.get("platform")), _descriptor(one)) for one in document["manifests"])
    )


def _platform(platform: Mapping[str, Any] | None) -> str:
    if not platform:
        return f"{_OS}/{ARCHITECTURE}"
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    return "/".join(str(part) for part in parts if part)


def _manifest(document: Mapping[str, Any], name: str) -> Manifest:
    layers = tuple(_descriptor(one) for one in document["layers"])
    if len(layers) > _MAX_LAYERS:
        raise errors.invalid(f"{name} has {len(layers)} layers; at most {_MAX_LAYERS} are taken")
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise errors.invalid(
                f"{name} is not an image that can run here: "
                f"it has a layer of type {layer.media_type!r}"
            )
    return Manifest(_descriptor(document["config"]), layers)


def _descriptor(one: Mapping[str, Any]) -> Descriptor:
    digest, size = str(one["digest"]), int(one["size"])
    if not reference.is_digest(digest):
        raise errors.invalid(
            f"the digest {digest!r} is of a kind that is not supported: sha256 is"
        )
    if size < 0:
        raise ValueError("a negative size")
    return Descriptor(str(one["mediaType"]), digest, size)


def _wrong_platform(name: str, there: Sequence[str]) -> errors.Failure:
    linux = [p.removeprefix(f"{_OS}/") for p in there]
    listed = ", ".join(linux) or "no platform at all"
    return errors.invalid(
        f"the image {name} is for {listed} only; this host runs {ARCHITECTURE}",
        hint=f"build it for {_OS}/{ARCHITECTURE}: docker build --platform {_OS}/{ARCHITECTURE}",
    )
