"""Who listens on a TCP port of this machine: so that no stranger is taken for one of ours.

Read from the kernel's tables of sockets and from what processes hold open. Used before components
are started, when one says nothing of being ready but listens, and by the doctor.
"""

import contextlib
import socket
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from godwit.base import errors
from godwit.base.settings import ROLES, Role, Settings
from godwit.host import running

_LISTENS = "0A"
_ANY = frozenset({"0.0.0.0", "::"})
_PROC = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process that listens.

    Attributes:
        pid: 0 when it is in a namespace that cannot be looked into.
        session: The session it belongs to; a component's is its own pid.
    """

    pid: int
    session: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid else "a process of another namespace"


@dataclass(frozen=True)
class Taken:
    """An address that a component needs and cannot have.

    Attributes:
        setting: The key in `listen` that names it.
        reason: What the kernel says.
        holders: Who has it.
    """

    setting: str
    address: str
    reason: str
    holders: tuple[Holder, ...]

    def __str__(self) -> str:
        who = f", held by {', '.join(map(str, self.holders))}" if self.holders else ""
        return f"{self.address} for {self.setting} ({self.reason}{who})"


def of(address: str, proc: Path = _PROC) -> tuple[Holder, ...]:
    """Return who listens where a server on `host:port` would have to, empty when it is free."""
    host, _, port = address.rpartition(":")
    wanted = host.strip("[]")
    inodes = {
        inode
        for table in ("tcp", "tcp6")
        for at, inode in _listening(proc / "net" / table, int(port))
        if at == wanted or at in _ANY or wanted in _ANY
    }
    if not inodes:
        return ()
    found = _holders(proc, inodes)
    return found or (Holder(0, 0, ""),)


_ROLE_OF: Mapping[str, Role] = {
    "api": "control",
    "join": "control",
    "edge": "edge",
    "edge_tls": "edge",
    "edge_status": "edge",
    "bus": "bus",
    "registry": "registry",
}


def taken(settings: Settings, roles: Collection[Role] = ROLES) -> list[Taken]:
    """Return the addresses of these roles that cannot be listened on; found by trying.

    The mesh's port is not among them: what listens there outlives the components.
    """
    found = []
    for name, role in _ROLE_OF.items():
        address = getattr(settings.listen, name)
        if address is None or role not in roles:
            continue
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((host.strip("[]"), int(port)))
            except OSError as error:
                found.append(Taken(name, address, error.strerror or str(error), of(address)))
    return found


def demand_free(settings: Settings, roles: Collection[Role] = ROLES) -> None:
    """Return if every component of these roles can listen where it has to.

    Raises:
        Failure: `failed_precondition`, naming every address and who holds it.
    """
    found = taken(settings, roles)
    if found:
        names = ", ".join(f"GODWIT_LISTEN_{one.setting.upper()}" for one in found)
        raise errors.Failure(
            "failed_precondition",
            "Godwit cannot listen on\n  " + "\n  ".join(map(str, found)),
            hint=f"end what is there, or choose other addresses with {names}",
        )


def _listening(table: Path, port: int) -> list[tuple[str, str]]:
    """Return address and inode of each listening socket on a port."""
    found = []
    with contextlib.suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            address, _, hex_port = fields[1].rpartition(":")
            if fields[3] == _LISTENS and int(hex_port, 16) == port:
                found.append((_address(address), fields[9]))
    return found


def _address(text: str) -> str:
    """Return an address of the kernel's table: words in the machine's byte order, in hex."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def _holders(proc: Path, inodes: set[str]) -> tuple[Holder, ...]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(_link(entry) in wanted for entry in (folder / "fd").iterdir()):
                pid = int(folder.name)
                name = (folder / "comm").read_text().strip()
                found.append(Holder(pid, running.session(pid), name))
    return tuple(sorted(found, key=lambda one: one.pid))


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""
