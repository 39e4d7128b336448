"""A guest's jail: the directory its Firecracker sees as `/`, and nothing of the host beside it.

It is `<jails>/<program>/<id>/root`, as the jailer wants it. What a guest works on is linked into
it by hard links, so a page of an image is in memory once for all guests and nothing needs a mount.
The directory above `root` is root's alone, so its VMM cannot put another `root` there; sockets
lie directly in `root`, and who connects to one looks at it first (`api.reachable`).
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from godwit.agent import slots
from godwit.agent.vmm import running
from godwit.agent.vmm.firecracker import config

ID_FLAG: Final = b"--id"
"""What jailer and Firecracker are told the guest's id by."""
_PRIVATE: Final = 0o700
_READABLE: Final = 0o444
_OPEN_FILES: Final = 1_024
_KEPT: Final = "kit"
_FOR_OTHERS: Final = 0o004
_TUNSETPERSIST: Final = 0x4004_54CB


@dataclass(frozen=True)
class Jail:
    """One guest's jail.

    Attributes:
        jails: Directory of all of them, on the file system of images and disks.
        name: The guest's.
        uid: User and group of its VMM.
        firecracker: The program that is copied into it.
    """

    jails: Path
    name: str
    uid: int
    firecracker: Path

    @property
    def id(self) -> str:
        """Return what the jailer and Firecracker call it."""
        return running.vm_name(self.name)

    @property
    def home(self) -> Path:
        """Return the directory that holds the jail alone."""
        return self.jails / self.firecracker.name / self.id

    @property
    def root(self) -> Path:
        """Return what its VMM sees as `/`."""
        return self.home / "root"

    def command(self, jailer: Path, *, boots: bool) -> tuple[str, ...]:
        """Return the jailer's command line; it becomes Firecracker in the same process.

        Args:
            jailer: The program.
            boots: Whether the VMM boots by itself what the configuration file says.
        """
        file = ("--config-file", config.jailed(config.CONFIG_FILE)) if boots else ()
        return (
            *(str(jailer), "--id", self.id, "--exec-file", str(self.firecracker)),
            *("--uid", str(self.uid), "--gid", str(self.uid)),
            *("--chroot-base-dir", str(self.jails)),
            *("--resource-limit", f"no-file={_OPEN_FILES}"),
            *("--", "--api-sock", config.jailed(config.API_SOCKET), "--level", "Warning", *file),
        )

    def make(self) -> None:
        """Make it afresh and empty."""
        remove(self.jails, self.name)
        self.home.mkdir(parents=True, mode=_PRIVATE)
        self.home.chmod(_PRIVATE)
        self.root.mkdir(mode=_PRIVATE)
        os.chown(self.root, self.uid, self.uid)

    def lend(self, source: Path, name: str) -> None:
        """Let its VMM read a file that others may read as well.

        Raises:
            OSError: There is no such file, or no room for a copy of one from another disk.
        """
        found = source.stat()
        if not found.st_mode & _FOR_OTHERS:
            source.chmod(found.st_mode | _READABLE)
        try:
            os.link(source, self.root / name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            os.link(_copy_here(source, self.jails / _KEPT), self.root / name)

    def give(self, source: Path, name: str) -> None:
        """Make a file the VMM's own, to read and write.

        Raises:
            OSError: There is no such file, or it lies on another file system.
        """
        os.chown(source, self.uid, self.uid)
        os.link(source, self.root / name)

    def write(self, name: str, text: str, *, size: int = 0) -> None:
        """Write a file that only its VMM may read and write, with zeros up to a size in bytes."""
        descriptor = os.open(self.root / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchown(descriptor, self.uid, self.uid)
        if size:
            os.truncate(self.root / name, size)


def remove(jails: Path, name: str) -> None:
    """Ensure a guest's jail is gone, whichever program it was made for.

    What was linked into it is not touched elsewhere.
    """
    for home in jails.glob(f"*/{running.vm_name(name)}"):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home)


def sweep(jails: Path) -> None:
    """Remove every jail that no process is in or on its way into."""
    busy = {running.argument(pid, ID_FLAG) for pid in running.pids()}
    for home in jails.glob(f"*/{running.vm_name('*')}"):
        if os.fsencode(home.name) not in busy:
            shutil.rmtree(home, ignore_errors=True)


def _copy_here(source: Path, kept: Path) -> Path:
    """Return this file system's own copy of a file that never changes, made once.

    Older copies of the same file go: jails have links of their own.
    """
    found = source.stat()
    target = kept / f"{source.name}-{found.st_size}-{found.st_mtime_ns}"
    if target.exists():
        return target
    kept.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    for older in kept.glob(f"{source.name}-*"):
        older.unlink(missing_ok=True)
    new = kept / f".{source.name}.{os.getpid()}"
    shutil.copyfile(source, new)
    new.chmod(_READABLE)
    new.replace(target)
    return target


def tap_of_template(name: str) -> str:
    """Return the name of a template's tap: nothing is ever behind it."""
    return f"gwt{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def remove_tap(name: str) -> None:
    """Ensure a tap made with `slots.create_tap` is gone, unless somebody holds it."""
    if name not in {found for _, found in socket.if_nameindex()}:
        return
    descriptor = slots.open_tap(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 0)
    finally:
        os.close(descriptor)
