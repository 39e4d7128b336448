"""What a docker-registry keeps on its disk: repositories, their images, who takes how much.

    <root>/docker/registry/v2/repositories/<name>/_manifests/revisions/sha256/<hex>/link
                                                 /_manifests/tags/<tag>/current/link
                                                 /_layers/sha256/<hex>/link
                                                 /_uploads/<id>/data
                             /blobs/sha256/<hh>/<hex>/data

Read directly, because the registry's API tells neither when something was pushed nor what was
uploaded and never named by an image. Everything here only reads but `clear_links`, which is for
a registry that takes no writes. Called by `host.registry_keeper`.

Source: distribution 2.8, registry/storage/paths.go.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_TREE: Final = Path("docker/registry/v2")
_LARGEST_MANIFEST: Final = 4 << 20
_OWN: Final = ("_manifests", "_layers", "_uploads")


@dataclass(frozen=True)
class Pushed:
    """One image, or index of images, in one repository.

    Attributes:
        pushed_at_ms: When it was last pushed there.
        tags: That name it now.
        children: Manifests that it lists, when it is an index.
    """

    repository: str
    digest: str
    pushed_at_ms: int
    tags: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Contents:
    """A registry's disk at one moment.

    Attributes:
        orphan_bytes: Content that no image names: what a collection frees besides images.
        written_at_ms: When something was last uploaded; 0 for never.
    """

    images: tuple[Pushed, ...] = ()
    orphan_bytes: int = 0
    written_at_ms: int = 0


def contents(root: Path) -> Contents:
    """Read everything; for a registry of some ten thousand images this takes seconds."""
    images: list[Pushed] = []
    named: set[str] = set()
    newest = 0
    for name, directory in _repositories(root):
        tags = _tags(directory)
        for digest, at_ms in _links(directory / "_manifests" / "revisions"):
            document = _manifest(root, digest)
            children = frozenset(_digests(document.get("manifests")))
            named |= {digest, *children, *_blobs_of(document)}
            mine = frozenset(tag for tag, of in tags.items() if of == digest)
            images.append(Pushed(name, digest, at_ms, mine, children))
            newest = max(newest, at_ms)
        for _, at_ms in _links(directory / "_layers"):
            newest = max(newest, at_ms)
        newest = max(newest, *(_changed_ms(path) for path in _uploads(directory)), 0)
    orphans = sum(size for digest, size in _all_blobs(root) if digest not in named)
    return Contents(tuple(images), orphans, newest)


def taken(root: Path, repositories: Iterable[str]) -> int:
    """Return how many bytes some repositories take together: each blob once, uploads too."""
    digests: set[str] = set()
    uploading = 0
    for name in repositories:
        for directory in _below(root, name):
            digests.update(digest for digest, _ in _links(directory / "_layers"))
            revisions = directory / "_manifests" / "revisions"
            digests.update(digest for digest, _ in _links(revisions))
            uploading += sum(_size(path) for path in _uploads(directory))
    return uploading + sum(_size(_blob(root, digest)) for digest in digests)


def pushed_at_ms(root: Path, repository: str, digest: str) -> int | None:
    """Return when an image was last pushed to a repository; `None` when it is not there."""
    revisions = root / _TREE / "repositories" / repository / "_manifests" / "revisions"
    with contextlib.suppress(OSError):
        link = revisions / digest.replace(":", "/") / "link"
        return link.stat().st_mtime_ns // 1_000_000
    return None


def clear_links(root: Path, keep: Iterable[str]) -> int:
    """Remove links to content that is gone, and repositories without any.

    Args:
        root: Of a registry that takes no writes meanwhile.
        keep: Repositories that stay, however empty.

    Returns:
        How many links and repositories were removed.
    """
    gone, staying = 0, frozenset(keep)
    for name, directory in list(_repositories(root)):
        for digest, _ in _links(directory / "_layers"):
            if not _blob(root, digest).exists():
                shutil.rmtree(directory / "_layers" / digest.replace(":", "/"))
                gone += 1
        empty = not any(_links(directory / part) for part in _LINKED)
        if empty and name not in staying and not _uploads(directory):
            for part in _OWN:
                shutil.rmtree(directory / part, ignore_errors=True)
            with contextlib.suppress(OSError):
                directory.rmdir()
            gone += 1
    return gone


_LINKED: Final = ("_layers", "_manifests/revisions")


def _repositories(root: Path) -> Iterator[tuple[str, Path]]:
    top = root / _TREE / "repositories"
    for parent, names, _ in os.walk(top):
        inner = [name for name in names if name not in _OWN]
        if len(inner) < len(names):
            yield Path(parent).relative_to(top).as_posix(), Path(parent)
        names[:] = inner


def _below(root: Path, name: str) -> Iterator[Path]:
    """Yield a repository and those under its name."""
    top = root / _TREE / "repositories"
    for parent, names, _ in os.walk(top / name):
        yield Path(parent)
        names[:] = [each for each in names if each not in _OWN]


def _links(directory: Path) -> list[tuple[str, int]]:
    """Return what is linked in a directory, and when it was linked last."""
    found = []
    for name in _names(directory / "sha256"):
        with contextlib.suppress(OSError):
            at = (directory / "sha256" / name / "link").stat().st_mtime_ns // 1_000_000
            found.append((f"sha256:{name}", at))
    return found


def _tags(directory: Path) -> dict[str, str]:
    found = {}
    tags = directory / "_manifests" / "tags"
    for name in _names(tags):
        with contextlib.suppress(OSError):
            found[name] = (tags / name / "current" / "link").read_text().strip()
    return found


def _names(directory: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [path.name for path in directory.iterdir()]
    return []


def _uploads(directory: Path) -> list[Path]:
    return list((directory / "_uploads").glob("*/data"))


def _manifest(root: Path, digest: str) -> dict[str, Any]:
    path = _blob(root, digest)
    with contextlib.suppress(OSError, ValueError):
        if path.stat().st_size <= _LARGEST_MANIFEST:
            document = json.loads(path.read_bytes())
            return document if isinstance(document, dict) else {}
    return {}


def _blobs_of(document: dict[str, Any]) -> Iterator[str]:
    yield from _digests([document.get("config")])
    yield from _digests(document.get("layers"))


def _digests(entries: object) -> Iterator[str]:
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("digest"), str):
            yield entry["digest"]


def _all_blobs(root: Path) -> Iterator[tuple[str, int]]:
    for path in (root / _TREE / "blobs" / "sha256").glob("*/*/data"):
        yield f"sha256:{path.parent.name}", _size(path)


def _blob(root: Path, digest: str) -> Path:
    plain = digest.removeprefix("sha256:")
    return root / _TREE / "blobs" / "sha256" / plain[:2] / plain / "data"


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _changed_ms(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns // 1_000_000
    return 0
