"""Tars made by hand, for layers that no tool would write."""

import io
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from godwit.images import blobstream, layers

UID, GID = os.getuid(), os.getgid()


@dataclass
class Tar:
    """A tar being written entry by entry."""

    format: int = tarfile.PAX_FORMAT
    _buffer: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self):
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=self.format)

    def add(self, name, content=b"", *, kind=tarfile.REGTYPE, link="", mode=0o644, **more):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = kind, link, mode
        entry.uid, entry.gid, entry.mtime = UID, GID, 1_000_000_000
        for key, value in more.items():
            setattr(entry, key, value)
        entry.size = more.get("size", len(content))
        self._tar.addfile(entry, io.BytesIO(content))
        return self

    def dir(self, name, mode=0o755, **more):
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode, **more)

    def symlink(self, name, target):
        return self.add(name, kind=tarfile.SYMTYPE, link=target, mode=0o777)

    def hardlink(self, name, target):
        return self.add(name, kind=tarfile.LNKTYPE, link=target)

    def whiteout(self, name):
        parent, _, last = name.rpartition("/")
        return self.add(f"{parent}/.wh.{last}" if parent else f".wh.{last}")

    def opaque(self, directory):
        return self.add(f"{directory}/.wh..wh..opq")

    def bytes(self):
        self._tar.close()
        return self._buffer.getvalue()


def apply(tmp_path: Path, *tars, limits=None, ordinary=False) -> Path:
    """Apply layers to a fresh directory in this process and return it."""
    root = tmp_path / "root"
    root.mkdir()
    opened = []
    for number, tar in enumerate(tars):
        path = tmp_path / f"layer-{number}"
        path.write_bytes(tar.bytes() if isinstance(tar, Tar) else tar)
        opened.append((layers.LayerFile(path, f"layer {number}"), blobstream.open_blob(path)))
    try:
        layers.apply(opened, os.fsencode(root), limits or layers.Limits(), ordinary=ordinary)
    finally:
        for _, file in opened:
            file.close()
    return root


def listing(root: Path) -> dict[str, str]:
    """Return every path below a directory, with what it is."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            if path.is_symlink():
                what = f"-> {path.readlink()}"
            elif path.is_dir():
                what = "dir"
            else:
                what = path.read_text()
            found[str(path.relative_to(root))] = what
    return found
