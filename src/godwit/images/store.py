"""Images at rest on one host: each one read-only EROFS file, converted once per digest.

    <root>/sha256-<hex>/image.erofs, meta.json    an image; appears whole by one rename
    <root>/index/sha256-<hex>                     an index: the digest of its image for amd64
    <root>/locks/<hex>                            one conversion per digest, between processes
    <root>/tmp/<name>/, <name>.lock               work in progress; locked by its maker

Machines' own users open the file by its name, and cannot list the names of others' images.
A work directory nobody holds a lock on is from a process that died: the next conversion and
`clean` remove it. Implements `agent.ports.Images`; made in the agent's composition root.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from godwit.base.errors import Failure
from godwit.images import (
    auth,
    erofs,
    flatten,
    layers,
    locks,
    manifests,
    reference,
    registry,
    resolver,
)
from godwit.images.config import ImageConfig
from godwit.wire import host_rpc
from godwit.wire.record import Record

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class LocalImage:
    """An image ready on this host: one read-only EROFS file, shared by its machines."""

    digest: str
    path: Path
    config: ImageConfig
    size_bytes: int


class _Meta(Record):
    """`meta.json`."""

    v: int = 1
    digest: str
    reference: str
    size_bytes: int
    config: ImageConfig


class ImageStore:
    """The images of one host.

    Args:
        root: Directory of the store; made when missing.
        limits: What one image may take.
        compression: Of the EROFS files.
        timeout_s: For one image, from the first request to the finished file.
    """

    def __init__(
        self,
        root: Path,
        *,
        limits: layers.Limits | None = None,
        compression: erofs.Compression = "none",
        timeout_s: float = 1800.0,
    ) -> None:
        self._root = root
        self._limits = limits or layers.Limits()
        self._compression = compression
        self._timeout_s = timeout_s
        self._busy: dict[str, asyncio.Lock] = {}
        self._known: dict[str, LocalImage] = {}
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for name in ("index", "locks", "tmp"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        self.clean()

    async def ensure(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        """Return the image, pulled and converted first if it is not here yet.

        Raises:
            Failure: `manifest_unknown`, `unavailable`, `rate_limited`, `invalid_argument`
                (wrong architecture, corrupt or hostile layer), `insufficient_capacity`
                (disk full), `deadline_exceeded`.
        """
        if (here := self.get(image.digest)) is not None:
            return here
        if not reference.is_digest(image.digest):
            raise Failure("invalid_argument", f"{image.digest!r} is not a sha256 digest")
        try:
            async with asyncio.timeout(self._timeout_s), self._alone(image.digest):
                return self.get(image.digest) or await self._pull(image, token)
        except TimeoutError as error:
            raise Failure(
                "deadline_exceeded",
                f"the image {image.reference} was not ready within {self._timeout_s:g} s",
            ) from error
        except OSError as error:
            if error.errno in _FULL:
                raise Failure(
                    "insufficient_capacity",
                    f"the disk is full: the image {image.reference} does not fit",
                ) from error
            raise

    def has(self, digest: str) -> bool:
        """Tell whether the image is here; the digest may be an index's."""
        return self.get(digest) is not None

    def get(self, digest: str) -> LocalImage | None:
        """Return an image that is here; the digest may be an index's."""
        digest = self._followed(digest)
        known = self._known.get(digest)
        if known is not None and known.path.exists():
            return known
        self._known.pop(digest, None)
        found = self._read(self._directory(digest))
        if found is not None and found.digest == digest:
            self._known[digest] = found
            return found
        return None

    def list(self) -> tuple[LocalImage, ...]:
        """Return every image that is here."""
        found = (self._read(path) for path in sorted(self._root.glob("sha256-*")))
        return tuple(image for image in found if image is not None)

    async def remove(self, digest: str) -> None:
        """Ensure an image is gone; a machine that has the file open keeps it."""
        digest = self._followed(digest)
        async with self._alone(digest):
            self._known.pop(digest, None)
            if self._directory(digest).exists():
                with self._workplace(digest) as work:
                    self._directory(digest).rename(work / "gone")
                    await asyncio.to_thread(shutil.rmtree, work / "gone", ignore_errors=True)

    def clean(self) -> None:
        """Remove the work of processes that died."""
        for path in (self._root / "tmp").glob("*.lock"):
            held = locks.try_lock(path)
            if held is not None:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
                os.close(held)

    async def _pull(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        credentials = auth.Credentials(token=token) if token else None
        async with registry.RegistryClient(
            image.registry, credentials=credentials, insecure=image.insecure
        ) as client:
            located = await resolver.locate(
                client, image.repository, image.digest, name=image.reference
            )
            if located.digest == image.digest:
                return await self._convert(client, image, located)
            async with self._alone(located.digest):
                done = self.get(located.digest) or await self._convert(client, image, located)
            self._write(self._root / "index" / _plain(image.digest), located.digest.encode())
            return done

    async def _convert(
        self, client: registry.RegistryClient, image: host_rpc.ImageRef, located: resolver.Located
    ) -> LocalImage:
        self.clean()
        manifest = located.manifest
        self._check_room(manifest, image.reference)
        body = await client.small_blob(image.repository, manifest.config)
        config = manifests.config(body, image.reference)
        if len(config.diff_ids) != len(manifest.layers):
            raise Failure(
                "invalid_argument",
                f"{image.reference} is damaged: {len(manifest.layers)} layers, "
                f"but its config names {len(config.diff_ids)}",
            )
        with self._workplace(located.digest) as work:
            await client.blobs(
                image.repository,
                {work / _plain(layer.digest): layer for layer in manifest.layers},
            )
            files = [
                layers.LayerFile(work / _plain(layer.digest), f"layer {layer.digest}", diff_id)
                for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
            ]
            ready = work / "ready"
            ready.mkdir(mode=0o711)
            size = await convert(
                files,
                ready / "image.erofs",
                digest=located.digest,
                limits=self._limits,
                compression=self._compression,
                timeout_s=self._timeout_s,
            )
            meta = _Meta(
                digest=located.digest,
                reference=image.reference,
                size_bytes=size,
                config=config.runtime,
            )
            await asyncio.to_thread(self._publish, ready, meta)
        done = self.get(located.digest)
        if done is None:
            raise Failure("internal", f"the image {located.digest} vanished after it was made")
        return done

    def _check_room(self, manifest: manifests.Manifest, name: str) -> None:
        needed = sum(layer.size for layer in set(manifest.layers))
        if needed > self._limits.max_bytes:
            raise Failure(
                "invalid_argument",
                f"{name} has {needed} bytes of layers; at most {self._limits.max_bytes} are taken",
            )
        free = os.statvfs(self._root)
        if needed > free.f_bavail * free.f_frsize:
            raise Failure(
                "insufficient_capacity",
                f"the disk is full: {name} needs more than {needed >> 20} MB",
            )

    def _publish(self, ready: Path, meta: _Meta) -> None:
        (ready / "meta.json").write_text(meta.model_dump_json())
        for path in (ready / "image.erofs", ready / "meta.json", ready):
            _sync(path)
        target = self._directory(meta.digest)
        if target.exists():
            shutil.rmtree(target)
        ready.rename(target)
        _sync(self._root)

    @contextlib.contextmanager
    def _workplace(self, digest: str) -> Iterator[Path]:
        lock = None
        while lock is None:
            # Somebody who tidies may hold a fresh lock for a moment: then take another name.
            name = f"{digest[7:19]}-{os.getpid()}-{secrets.token_hex(4)}"
            work = self._root / "tmp" / name
            lock = locks.try_lock(work.with_suffix(".lock"))
        try:
            work.mkdir(mode=0o700)
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            work.with_suffix(".lock").unlink(missing_ok=True)
            os.close(lock)

    @contextlib.asynccontextmanager
    async def _alone(self, digest: str) -> AsyncIterator[None]:
        mine = self._busy.setdefault(digest, asyncio.Lock())
        async with (
            mine,
            locks.held(
                self._root / "locks" / _plain(digest),
                timeout_s=self._timeout_s,
                what=f"the image {digest}",
            ),
        ):
            yield

    def _followed(self, digest: str) -> str:
        if not reference.is_digest(digest):
            return digest
        try:
            child = (self._root / "index" / _plain(digest)).read_text()
        except OSError:
            return digest
        return child if reference.is_digest(child) else digest

    def _directory(self, digest: str) -> Path:
        return self._root / _plain(digest)

    def _read(self, directory: Path) -> LocalImage | None:
        path = directory / "image.erofs"
        try:
            meta = _Meta.model_validate_json((directory / "meta.json").read_bytes())
            if path.stat().st_size != meta.size_bytes:
                return None
        except (OSError, ValidationError):
            return None
        return LocalImage(meta.digest, path, meta.config, meta.size_bytes)

    def _write(self, path: Path, content: bytes) -> None:
        fresh = path.with_suffix(f".{secrets.token_hex(4)}")
        fresh.write_bytes(content)
        _sync(fresh)
        fresh.rename(path)


async def convert(
    files: list[layers.LayerFile],
    into: Path,
    *,
    digest: str,
    limits: layers.Limits,
    compression: erofs.Compression = "none",
    timeout_s: float = 1800.0,
) -> int:
    """Turn layers, lowest first, into one EROFS file; the tree is made beside it and removed.

    Raises:
        Failure: As `ImageStore.ensure`.
    """
    tree = into.with_name("tree")
    tree.mkdir(mode=0o700)
    try:
        (tree / "root").mkdir(mode=0o755)
        made = await flatten.flatten(files, tree / "root", limits=limits, timeout_s=timeout_s)
        return await erofs.make(
            tree / "root",
            into,
            digest=digest,
            newest_ns=made.newest_ns,
            compression=compression,
            timeout_s=timeout_s,
        )
    finally:
        await asyncio.to_thread(shutil.rmtree, tree, ignore_errors=True)


def _plain(digest: str) -> str:
    """Return a digest as a file name without a colon, which QEMU would read as a protocol."""
    return digest.replace(":", "-", 1)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
