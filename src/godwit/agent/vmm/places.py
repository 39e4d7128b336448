"""Where the VMs of one host lie: directories, sockets, and files that only root may read."""

import os
from dataclasses import dataclass
from pathlib import Path

from godwit.agent import ports
from godwit.agent.vmm import running

_DIRECTORY_MODE = 0o700


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes:
        store: On a reflink file system; machines' directories and disk templates are here.
        run_dir: Sockets; its path is short.
        shim: The program `godwit-shim`.
    """

    store: Path
    run_dir: Path
    shim: Path

    @property
    def machines(self) -> Path:
        """Return the directory of machines' directories."""
        return self.store / "machines"

    @property
    def templates(self) -> Path:
        """Return the directory of saved guests that machines begin as copies of."""
        return self.store / "guests"

    @property
    def sockets(self) -> Path:
        """Return the directory of machines' sockets."""
        return self.run_dir / "m"

    def directory(self, machine_id: str) -> Path:
        """Return a machine's own directory."""
        return self.machines / machine_id

    def config(self, machine_id: str) -> Path:
        """Return the file that a machine's shim is started with, and known by."""
        return self.directory(machine_id) / running.CONFIG_NAME

    def scratch(self, machine_id: str) -> Path:
        """Return a machine's scratch disk."""
        return self.directory(machine_id) / "scratch.ext4"

    def swap(self, machine_id: str) -> Path:
        """Return a machine's swap disk."""
        return self.directory(machine_id) / "swap.img"

    def cache(self, machine_id: str) -> Path:
        """Return a machine's cache drive."""
        return self.directory(machine_id) / "cache.ext4"

    def volumes(self, machine_id: str) -> dict[ports.FurtherDisk, Path]:
        """Return the disks that volumes of a machine's containers may have."""
        directory = self.directory(machine_id)
        return {disk: directory / f"{disk}.ext4" for disk in ports.OWN_DISKS}

    def exit_record(self, machine_id: str) -> Path:
        """Return where the shim writes down how a boot ended."""
        return self.directory(machine_id) / "exit.json"

    def socket(self, machine_id: str) -> Path:
        """Return where a machine's shim listens."""
        return self.sockets / f"{machine_id}.sock"

    def channel(self, name: str) -> Path:
        """Return where a guest's control channel arrives."""
        return self.sockets / f"{name}.channel"

    def monitor(self, name: str) -> Path:
        """Return where a guest's VMM takes orders."""
        return self.sockets / f"{name}.vmm"


def make_private(directory: Path) -> None:
    """Ensure a directory that only we may enter."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(_DIRECTORY_MODE)


def write_private(path: Path, text: str, *, durably: bool = False) -> None:
    """Write a file whole, readable by us alone.

    Args:
        path: In a directory that is there.
        text: All of it.
        durably: Whether it must be on the disk when this returns.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        if durably:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)
    if durably:
        sync(path.parent)


def sync(path: Path) -> None:
    """Return once a file or directory is on the disk as it is now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
