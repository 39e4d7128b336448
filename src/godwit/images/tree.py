"""A directory being filled from layers: a model in memory decides, the disk follows.

The directory is ours alone while it is filled, so everything in it is known: each name, its
kind, which layer put it there. Paths are therefore resolved in the model, never by the
kernel: a symbolic link is followed inside the tree, `..` stops at its top, and every path
given to the kernel consists of directories we made ourselves. Nothing outside can be named.
Called by `layers.py`, normally in a process that has changed its root to the tree as well.

Device nodes and setuid bits are kept: they belong to the image and mean something only
inside the guest. A character device 0:0 is left out, since overlayfs would read it as a
whiteout; so are extended attributes other than `security.capability` and `user.*`
(`trusted.overlay.*` would steer the guest's overlay).
"""

# Names in images are bytes, which pathlib does not take.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH211

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, Literal

from godwit.images import tarstream

NodeKind = Literal["dir", "symlink", "other"]
Writer = Callable[[int], None]

_MAX_LINKS: Final = 40
"""Symbolic links followed in one path, as in the kernel."""
_MAX_DEPTH: Final = 400
"""Directories inside one another; the recursion below must end."""
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL: Final = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
_NO_XATTR: Final = (errno.ENOTSUP, errno.EPERM)


class Hostile(ValueError):
    """An entry tries what no honest archive does, or what cannot be done with this tree."""


class Node:
    """What the model knows of one name."""

    __slots__ = ("children", "kind", "layer", "mtime_ns", "path", "target")

    def __init__(self, kind: NodeKind, layer: int, path: bytes) -> None:
        self.kind: NodeKind = kind
        self.layer = layer
        self.path = path
        self.children: dict[bytes, Node] = {}
        self.target = b""
        self.mtime_ns: int | None = None


class Tree:
    """A directory filled entry by entry, layer by layer.

    Attributes:
        newest_ns: The greatest modification time of any entry.
    """

    def __init__(self, root: bytes) -> None:
        self._root = Node("dir", -1, root)
        self._layer = -1
        self._resolved: dict[bytes, Node] = {}
        self.newest_ns = 0

    def next_layer(self) -> None:
        """Begin the next layer: whiteouts hide what came before, not what follows."""
        self._layer += 1

    def put(self, entry: tarstream.Entry, write: Writer) -> None:
        """Add or replace one entry; `write` fills a file through its descriptor.

        Raises:
            Hostile: The name leaves the tree or its kind does not fit what is there.
        """
        parts = clean(entry.name)
        self.newest_ns = max(self.newest_ns, entry.mtime_ns)
        if not parts:
            self._put_top(entry)
            return
        parent = self._directory(parts[:-1])
        name = parts[-1]
        if entry.kind == "dir":
            self._put_directory(parent, name, entry)
        elif entry.kind == "hardlink":
            self._put_link(parent, name, entry)
        elif entry.kind != "char" or entry.major or entry.minor:
            self._remove(parent, name)
            self._put_leaf(parent, name, entry, write)

    def hide(self, directory: list[bytes], name: bytes) -> None:
        """Remove what lower layers have under a name (`.wh.<name>`)."""
        parent = self._lookup(directory)
        node = parent.children.get(name) if parent is not None else None
        if parent is None or node is None:
            return
        self._hide_below(node)
        if node.layer < self._layer and not node.children:
            self._remove(parent, name)

    def hide_all(self, directory: list[bytes]) -> None:
        """Remove what lower layers have in a directory (`.wh..wh..opq`)."""
        node = self._lookup(directory)
        if node is not None:
            self._hide_below(node)

    def finish(self) -> None:
        """Set the directories' times, which filling them has changed."""
        for node in self._directories(self._root):
            if node.mtime_ns is not None:
                os.utime(node.path, ns=(node.mtime_ns, node.mtime_ns))

    def _put_top(self, entry: tarstream.Entry) -> None:
        if entry.kind != "dir":
            raise Hostile(f"makes the top of the tree a {entry.kind}")
        self._dress_directory(self._root, entry)

    def _put_directory(self, parent: Node, name: bytes, entry: tarstream.Entry) -> None:
        node = parent.children.get(name)
        if node is None or node.kind != "dir":
            self._remove(parent, name)
            node = self._make_directory(parent, name)
        node.layer = self._layer
        self._dress_directory(node, entry)

    def _dress_directory(self, node: Node, entry: tarstream.Entry) -> None:
        os.chown(node.path, entry.uid, entry.gid)
        os.chmod(node.path, entry.mode)
        for name in os.listxattr(node.path):
            if _kept(name):
                os.removexattr(node.path, name)
        _set_xattrs(node.path, entry)
        node.mtime_ns = entry.mtime_ns

    def _make_directory(self, parent: Node, name: bytes) -> Node:
        node = Node("dir", self._layer, parent.path + b"/" + name)
        os.mkdir(node.path, 0o755)
        parent.children[name] = node
        return node

    def _put_link(self, parent: Node, name: bytes, entry: tarstream.Entry) -> None:
        parts = clean(entry.link)
        above = self._lookup(parts[:-1]) if parts else None
        target = above.children.get(parts[-1]) if above is not None else None
        if target is None or target.kind == "dir":
            raise Hostile(f"{_text(entry.name)} links to {_text(entry.link)}, which is no file")
        if parent.children.get(name) is target:
            return
        self._remove(parent, name)
        node = Node(target.kind, self._layer, parent.path + b"/" + name)
        node.target = target.target
        os.link(target.path, node.path, follow_symlinks=False)
        parent.children[name] = node

    def _put_leaf(self, parent: Node, name: bytes, entry: tarstream.Entry, write: Writer) -> None:
        kind: NodeKind = "symlink" if entry.kind == "symlink" else "other"
        node = Node(kind, self._layer, parent.path + b"/" + name)
        if entry.kind == "file":
            _write_file(node.path, entry, write)
        else:
            if entry.kind == "symlink":
                node.target = entry.link
                os.symlink(entry.link, node.path)
            else:
                device = os.makedev(entry.major, entry.minor) if entry.kind != "fifo" else 0
                os.mknod(node.path, _SPECIAL[entry.kind] | 0o600, device)
            os.chown(node.path, entry.uid, entry.gid, follow_symlinks=False)
            if entry.kind != "symlink":
                os.chmod(node.path, entry.mode)
            _set_xattrs(node.path, entry)
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(node.path, ns=times, follow_symlinks=False)
        parent.children[name] = node

    def _directory(self, parts: list[bytes]) -> Node:
        """Return the directory, made with its parents where missing."""
        key = b"/".join(parts)
        node = self._resolved.get(key)
        if node is None:
            node = self._walk(parts, make=True)
            if node is None or node.kind != "dir":
                raise Hostile(f"{_text(key)} is not a directory, yet entries lie below it")
            self._resolved[key] = node
        return node

    def _lookup(self, parts: list[bytes]) -> Node | None:
        node = self._walk(parts, make=False)
        return node if node is not None and node.kind == "dir" else None

    def _walk(self, parts: list[bytes], *, make: bool) -> Node | None:
        """Follow a path inside the tree; `make` creates the directories that are missing."""
        todo = parts[::-1]
        trail = [self._root]
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del trail[max(1, len(trail) - 1) :]
                continue
            node = self._step(trail[-1], name, make=make)
            if node is None:
                return None
            if node.kind == "symlink":
                links += 1
                todo.extend(reversed(_components(node.target)))
                trail = [self._root] if node.target.startswith(b"/") else trail
            else:
                trail.append(node)
            if links > _MAX_LINKS or len(trail) > _MAX_DEPTH:
                raise Hostile(f"{_text(b'/'.join(parts))} leads too deep, or in a circle")
        return trail[-1]

    def _step(self, here: Node, name: bytes, *, make: bool) -> Node | None:
        if here.kind != "dir":
            return None
        node = here.children.get(name)
        if node is None and make:
            node = self._make_directory(here, name)
            os.chmod(node.path, 0o755)  # noqa: S103 - what every engine gives implied directories
        return node

    def _hide_below(self, directory: Node) -> None:
        for name, node in list(directory.children.items()):
            self._hide_below(node)
            if node.layer < self._layer and not node.children:
                self._remove(directory, name)

    def _remove(self, parent: Node, name: bytes) -> None:
        node = parent.children.get(name)
        if node is None:
            return
        if node.kind != "other":
            self._resolved.clear()
        if node.kind == "dir":
            for child in list(node.children):
                self._remove(node, child)
            os.rmdir(node.path)
        else:
            os.unlink(node.path)
        del parent.children[name]

    def _directories(self, node: Node) -> Iterator[Node]:
        for child in node.children.values():
            if child.kind == "dir":
                yield from self._directories(child)
        yield node


def clean(name: bytes) -> list[bytes]:
    """Return the components of a name below the tree's top, `.` and `x/..` removed.

    Raises:
        Hostile: The name points above the top.
    """
    parts: list[bytes] = []
    for part in _components(name):
        if part != b"..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise Hostile(f"{_text(name)} points out of the image")
    return parts


def _components(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def _write_file(path: bytes, entry: tarstream.Entry, write: Writer) -> None:
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        write(descriptor)
        os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)
        if entry.xattrs:
            _set_xattrs(descriptor, entry)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(descriptor)


def _kept(xattr: str) -> bool:
    return xattr == "security.capability" or xattr.startswith("user.")


def _set_xattrs(target: bytes | int, entry: tarstream.Entry) -> None:
    for name, value in entry.xattrs.items():
        if not _kept(name):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_XATTR or not name.startswith("user."):
                raise


def _text(name: bytes) -> str:
    return repr(name.decode(errors="replace"))
