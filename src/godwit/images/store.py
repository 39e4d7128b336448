"""Images at rest on one host: each one read-only EROFS file, converted once per digest.

    <root>/sha256-<hex>/image.erofs, meta.json    an image; appears and goes whole, by one rename
    <root>/sha256-<hex>/rights.json               under which names it may be used
    <root>/sha256-<hex>/used                      its time is that of the image's last use
    <root>/index/sha256-<hex>                     an index: the digest of its image for amd64
    <root>/locks/<hex>                            one conversion per digest, between processes
    <root>/tmp/<name>/, <name>.lock               work in progress; locked by its maker

Machines' own users open the file by its name, and cannot list the names of others' images.
A work directory nobody holds a lock on is from a process that died: the next conversion and
`clean` remove it. What nobody needs any more `agent.image_keeper` removes. Implements
`agent.ports.Images`; made in the agent's composition root.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from godwit.base import clock
from godwit.base.errors import Failure
from godwit.images import (
    auth,
    collection,
    erofs,
    flatten,
    layers,
    locks,
    manifests,
    reference,
    registry,
    resolver,
    rights,
)
from godwit.images.config import ImageConfig
from godwit.wire import host_rpc
from godwit.wire.record import Record

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_USE_NOTED_MS: Final = 60_000
"""A use this soon after the last is not written down again: starts are not to wait for a disk."""


@dataclass(frozen=True)
class LocalImage:
    """An image ready on this host: one read-only EROFS file, shared by its machines."""

    digest: str
    path: Path
    config: ImageConfig
    size_bytes: int


@dataclass(frozen=True)
class AtRest:
    """An image here, and what tells whether it is still wanted.

    Attributes:
        names: Digests it is asked for by: its own, and those of indexes that lead to it.
        reference: As the user wrote it who first had it pulled.
    """

    image: LocalImage
    names: frozenset[str]
    reference: str
    used_at_ms: int


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
        time: When images are used.
        below: A directory on the disk that holds the file system of the images, where that is a
            file itself.
        elsewhere: Where registries are reached that go by another name in references.
    """

    def __init__(
        self,
        root: Path,
        *,
        limits: layers.Limits | None = None,
        compression: erofs.Compression = "none",
        timeout_s: float = 1800.0,
        time: clock.Clock | None = None,
        below: Path | None = None,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root
        self._below = below
        self._elsewhere = elsewhere or {}
        self._clock = time or clock.SystemClock()
        self._limits = limits or layers.Limits()
        self._compression = compression
        self._timeout_s = timeout_s
        self._busy = weakref.WeakValueDictionary[str, asyncio.Lock]()
        self._known: dict[str, LocalImage] = {}
        self._make_room: Callable[[], Awaitable[None]] | None = None
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
        if (here := self._allowed(image)) is not None:
            await asyncio.to_thread(self.note_use, here.digest)
            return here
        if not reference.is_digest(image.digest):
            raise Failure("invalid_argument", f"{image.digest!r} is not a sha256 digest")
        try:
            return await self._made(image, token)
        except Failure as failure:
            if failure.code != "insufficient_capacity" or self._make_room is None:
                raise
            await self._make_room()
            return await self._made(image, token)

    async def _made(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        try:
            async with asyncio.timeout(self._timeout_s), self._alone(image.digest):
                return self._allowed(image) or await self._pull(image, token)
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
                    hint="`godwit images list` shows what holds the disk's images",
                ) from error
            raise

    def _allowed(self, image: host_rpc.ImageRef) -> LocalImage | None:
        """Return an image that is here and may be used under this name."""
        here = self.get(image.digest)
        covered = here is not None and rights.cover(self._directory(here.digest), image)
        return here if covered else None

    def when_full(self, make_room: Callable[[], Awaitable[None]]) -> None:
        """Call for room before an image is refused because the disk is full."""
        self._make_room = make_room

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

    def at_rest(self) -> tuple[AtRest, ...]:
        """Return every image that is here, with what tells whether it is still wanted."""
        names: dict[str, set[str]] = {}
        for entry in (self._root / "index").glob("sha256-*"):
            with contextlib.suppress(OSError):
                names.setdefault(entry.read_text(), set()).add(entry.name.replace("-", ":", 1))
        found = []
        for image in self.list():
            with contextlib.suppress(OSError, ValidationError):
                directory = self._directory(image.digest)
                meta = _Meta.model_validate_json((directory / "meta.json").read_bytes())
                known = frozenset({image.digest, *names.get(image.digest, ())})
                used_at_ms = _used_at_ms(directory)
                found.append(AtRest(image, known, meta.reference, used_at_ms))
        return tuple(found)

    def note_use(self, digest: str) -> None:
        """Write down that an image is used now; blocks for the disk."""
        directory = self._directory(self._followed(digest))
        now_ms = self._clock.now_ms()
        with contextlib.suppress(FileNotFoundError):
            if abs(now_ms - _used_at_ms(directory)) >= _USE_NOTED_MS:
                _mark_used(directory, now_ms)

    def space(self) -> collection.Space:
        """Return how full the disk of the images is, or the one below it if that is fuller."""
        disks = [self._root, *([self._below] if self._below else [])]
        return max((_space(disk) for disk in disks), key=lambda space: space.used)

    async def remove(self, digest: str, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Ensure an image is gone; a machine that has the file open keeps it.

        Args:
            digest: Its own, or an index's.
            unless: Asked once nobody pulls the image any more; when it says so, it stays.
                Nothing else of this process runs between the answer and the removal.

        Returns:
            Whether it is gone.
        """
        digest = self._followed(digest)
        async with self._alone(digest):
            with self._workplace(digest) as work:
                if unless():
                    return False
                self._known.pop(digest, None)
                with contextlib.suppress(FileNotFoundError):
                    self._directory(digest).rename(work / "gone")
                self._forget_indexes()
                await asyncio.to_thread(shutil.rmtree, work / "gone", ignore_errors=True)
            (self._root / "locks" / _plain(digest)).unlink(missing_ok=True)
        return True

    def clean(self) -> None:
        """Remove the work of processes that died."""
        for path in (self._root / "tmp").glob("*.lock"):
            held = locks.try_lock(path)
            if held is not None:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
                os.close(held)
        self._forget_indexes()

    def _forget_indexes(self) -> None:
        """Remove what leads to images that are not here, and locks on what nobody is at."""
        for entry in (self._root / "index").glob("sha256-*"):
            with contextlib.suppress(OSError):
                if not self._directory(entry.read_text()).exists():
                    entry.unlink()
        for lock in (self._root / "locks").glob("sha256-*"):
            held = None if (self._root / lock.name).exists() else locks.try_lock(lock)
            if held is not None:
                lock.unlink(missing_ok=True)
                os.close(held)

    async def _pull(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        async with registry.RegistryClient(
            self._elsewhere.get(image.registry, image.registry),
            credentials=auth.of_pull_token(token),
            insecure=image.insecure,
        ) as client:
            located = await resolver.locate(
                client, image.repository, image.digest, name=image.reference
            )
            shown = rights.of_pull(image, token)
            if located.digest == image.digest:
                return await self._taken(client, image, located, shown)
            async with self._alone(located.digest):
                done = await self._taken(client, image, located, shown)
            self._note_index(image.digest, located.digest)
            return done

    async def _taken(
        self,
        client: registry.RegistryClient,
        image: host_rpc.ImageRef,
        located: resolver.Located,
        shown: rights.Rights,
    ) -> LocalImage:
        """Return the image, made now or, where it is here under other names, fetched again."""
        here = self.get(located.digest)
        if here is None:
            return await self._convert(client, image, located, shown)
        directory = self._directory(located.digest)
        if not rights.cover(directory, image):
            self._check_room(located.manifest, image.reference)
            await client.small_blob(image.repository, located.manifest.config)
            with self._workplace(located.digest) as work:
                await self._fetch(client, image, located, work)
            await asyncio.to_thread(rights.add, directory, shown)
        return here

    async def _fetch(
        self,
        client: registry.RegistryClient,
        image: host_rpc.ImageRef,
        located: resolver.Located,
        work: Path,
    ) -> None:
        wanted = {work / _plain(layer.digest): layer for layer in located.manifest.layers}
        await client.blobs(image.repository, wanted)

    def _note_index(self, index: str, digest: str) -> None:
        with self._workplace(index) as work:
            (work / "entry").write_text(digest)
            _sync(work / "entry")
            (work / "entry").rename(self._root / "index" / _plain(index))

    async def _convert(
        self,
        client: registry.RegistryClient,
        image: host_rpc.ImageRef,
        located: resolver.Located,
        shown: rights.Rights,
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
            await self._fetch(client, image, located, work)
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
            await asyncio.to_thread(rights.write, ready, shown)
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
        _mark_used(ready, self._clock.now_ms())
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


def _space(directory: Path) -> collection.Space:
    found = os.statvfs(directory)
    return collection.Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def _used_at_ms(directory: Path) -> int:
    """Return when an image was last used; one of a release that kept no note, when it was made."""
    for name in ("used", "meta.json"):
        with contextlib.suppress(FileNotFoundError):
            return (directory / name).stat().st_mtime_ns // 1_000_000
    raise FileNotFoundError(directory)


def _mark_used(directory: Path, at_ms: int) -> None:
    descriptor = os.open(directory / "used", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.utime(descriptor, ns=(at_ms * 1_000_000, at_ms * 1_000_000))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
