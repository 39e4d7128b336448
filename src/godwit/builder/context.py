"""A directory as a build context: what of it is sent, as a tar that comes out the same twice.

Honours `.dockerignore` (`ignore.py`), always sends the Dockerfile and the ignore file, and
brings a Dockerfile from outside the directory along. Symbolic links are sent as links. Called
by the CLI before a build, and by `buildah.py` for a context that is a directory.
"""

import asyncio
import contextlib
import io
import os
import stat
import tarfile
import tempfile
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from godwit.base import errors
from godwit.builder import ignore

OUTSIDE: Final = ".godwit.Dockerfile"
"""What a Dockerfile from outside the directory is called in the context."""
WARN_BYTES: Final = 100 << 20
_LARGEST: Final = 5
_PIECE: Final = 1 << 20
_KEPT_IN_MEMORY: Final = 8 << 20


@dataclass(frozen=True)
class Packed:
    """A tar of a context, kept until nobody holds this.

    Attributes:
        dockerfile: Where the Dockerfile is within it.
        ignorefile: Where the ignore file is within it, empty when there is none.
        size_bytes: Of the files in it.
        largest: The largest entries at the top, with their bytes.
    """

    dockerfile: str
    ignorefile: str
    files: int
    size_bytes: int
    largest: tuple[tuple[str, int], ...]
    _tar: IO[bytes] = field(repr=False)

    def described(self) -> str:
        """Return what is sent, for a person: `38 files, 1.2 MB`."""
        return f"{self.files} file{'' if self.files == 1 else 's'}, {_size(self.size_bytes)}"

    def warning(self, limit: int = WARN_BYTES) -> str:
        """Return a sentence about a context that is larger than `limit`, else nothing."""
        if self.size_bytes <= limit:
            return ""
        named = ", ".join(f"{name} ({_size(size)})" for name, size in self.largest)
        return (
            f"the build context has {_size(self.size_bytes)}; the largest parts are {named}."
            " What the build does not need belongs into .dockerignore"
        )

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the tar; it can be read as often as needed."""
        self._tar.seek(0)
        while piece := await asyncio.to_thread(self._tar.read, _PIECE):
            yield piece

    def save(self, path: Path) -> None:
        """Write the tar into a file."""
        self._tar.seek(0)
        with path.open("wb") as sink:
            while piece := self._tar.read(_PIECE):
                sink.write(piece)


def pack(directory: Path, dockerfile: Path, ignorefile: Path | None = None) -> Packed:
    """Pack a directory.

    Args:
        directory: The context.
        dockerfile: The Dockerfile, in the directory or outside.
        ignorefile: The ignore file; `None` for `<dockerfile>.dockerignore`, then
            `.dockerignore` of the directory.

    Raises:
        Failure: `invalid_argument` for an ignore file that is wrong or a file that cannot be
            read, `not_found` for a directory or Dockerfile that is not there.
    """
    top = directory.resolve()
    if not top.is_dir():
        raise errors.not_found(f"there is no directory {directory}")
    if not dockerfile.is_file():
        raise errors.not_found(f"there is no Dockerfile at {dockerfile}")
    rules_at = ignorefile or _usual_ignorefile(top, dockerfile)
    rules = _rules(rules_at)
    docker_name = _inside(top, dockerfile) or OUTSIDE
    rules_name = (_inside(top, rules_at) or "") if rules_at is not None else ""
    always = {name for name in (docker_name, rules_name) if name and name != OUTSIDE}
    target = tempfile.SpooledTemporaryFile(max_size=_KEPT_IN_MEMORY)  # noqa: SIM115 - outlives us
    with contextlib.ExitStack() as unless_done:
        unless_done.callback(target.close)
        packer = _Packer(target)
        for name in _wanted(top, rules, always):
            packer.add(top / name, name)
        if docker_name == OUTSIDE:
            packer.add_bytes(dockerfile.read_bytes(), OUTSIDE)
        packed = packer.finish(docker_name, rules_name)
        unless_done.pop_all()
    weakref.finalize(packed, target.close)
    return packed


def _rules(path: Path | None) -> ignore.Ignore:
    if path is None:
        return ignore.parse("/fly.toml")
    try:
        return ignore.parse(path.read_text(errors="surrogateescape"), path.name)
    except OSError as error:
        raise errors.not_found(f"cannot read the ignore file {path}: {error.strerror}") from error


def _usual_ignorefile(top: Path, dockerfile: Path) -> Path | None:
    beside = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    return next((path for path in (beside, top / ".dockerignore") if path.is_file()), None)


def _inside(top: Path, path: Path) -> str | None:
    """Return a path relative to the context, `None` when it lies outside."""
    resolved = path.parent.resolve() / path.name
    return resolved.relative_to(top).as_posix() if resolved.is_relative_to(top) else None


def _wanted(top: Path, rules: ignore.Ignore, always: set[str]) -> Iterator[str]:
    """Yield what is sent, sorted, each directory before what is in it."""
    parents = {str(p) for name in always for p in Path(name).parents if str(p) != "."}
    pending: list[str] = []

    def walk(relative: str) -> Iterator[str]:
        with os.scandir(top / relative) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            ignored = rules.ignores(name) and name not in always
            if not entry.is_dir(follow_symlinks=False):
                if not ignored:
                    yield from (*pending, name)
                    pending.clear()
            elif not ignored:
                yield from (*pending, name)
                pending.clear()
                yield from walk(name)
            elif rules.takes_back or name in parents:
                pending.append(name)
                yield from walk(name)
                if pending and pending[-1] == name:
                    pending.pop()

    try:
        yield from walk("")
    except OSError as error:
        raise _unreadable(error) from error


class _Packer:
    """Writes entries and counts them."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._tar = tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._sizes: Counter[str] = Counter()
        self._files = 0

    def add(self, path: Path, name: str) -> None:
        try:
            at = path.lstat()
            if stat.S_ISSOCK(at.st_mode) or stat.S_ISFIFO(at.st_mode):
                return
            entry = self._tar.gettarinfo(str(path), arcname=name)
            _plain(entry)
            if not stat.S_ISREG(at.st_mode):
                self._tar.addfile(entry)
                return
            # A second name of a file is sent as a file of its own.
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", at.st_size
            with path.open("rb") as content:
                self._tar.addfile(entry, content)
        except OSError as error:
            raise _unreadable(error) from error
        self._count(name, at.st_size)

    def add_bytes(self, content: bytes, name: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        _plain(entry)
        self._tar.addfile(entry, io.BytesIO(content))
        self._count(name, len(content))

    def finish(self, dockerfile: str, ignorefile: str) -> Packed:
        self._tar.close()
        self._target.flush()
        return Packed(
            dockerfile=dockerfile,
            ignorefile=ignorefile,
            files=self._files,
            size_bytes=sum(self._sizes.values()),
            largest=tuple(self._sizes.most_common(_LARGEST)),
            _tar=self._target,
        )

    def _count(self, name: str, size: int) -> None:
        self._files += 1
        self._sizes[name.partition("/")[0]] += size


def _plain(entry: tarfile.TarInfo) -> None:
    """Take away what depends on who packs: owner, names, fractions of a second."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(entry.mtime)


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:  # noqa: PLR2004 - decimal units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _unreadable(error: OSError) -> errors.Failure:
    return errors.invalid(
        f"cannot pack {error.filename or 'the build context'}: {error.strerror or error}",
        hint="make it readable, or name it in .dockerignore",
    )
