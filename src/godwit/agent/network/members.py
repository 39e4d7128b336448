"""Which hosts there are, read from the file that says so (`<data>/members.json`).

It is there before the bus answers, so that a host's machines reach those of others whatever else
is away. Whoever follows the catalog writes it whole; this only reads. Of each member's record only
what the mesh needs is looked at here.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import ValidationError

from godwit.agent.network.peers import Peer
from godwit.base import errors
from godwit.wire.record import Record


class _Member(Record):
    """What a member's record says about the mesh.

    Attributes:
        mesh_key: Its WireGuard public key; empty for one that is not in the mesh.
        mesh_next_key: What that key will be; empty unless it is about to change.
        endpoints: Where its WireGuard takes packets, the best first.
        state: A `removed` member is one no more.
    """

    host_id: str = ""
    host_number: int
    mesh_key: str = ""
    mesh_next_key: str = ""
    endpoints: tuple[str, ...] = ()
    state: str = "active"


class MembersFile:
    """The file, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[Peer, ...] = ()
        self._version: tuple[int, int, int] | None = None

    def read(self) -> tuple[Peer, ...]:
        """Return all hosts of the mesh, this one included; none while there is no file.

        Raises:
            Failure: `failed_precondition` when the file is not what it should be; what was read
                last still holds.
        """
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version != self._version:
                self._known = _parse(self._path.read_text())
                self._version = version
        except FileNotFoundError:
            self._known, self._version = (), None
        except (ValueError, TypeError, KeyError) as error:
            raise errors.Failure(
                "failed_precondition", f"{self._path} cannot be read: {error}"
            ) from error
        return self._known


def following(
    file: MembersFile, tell: Callable[[tuple[Peer, ...]], None]
) -> Callable[[], Awaitable[None]]:
    """Return what reads the file and tells what it says; to be done now and then."""

    async def look() -> None:
        tell(file.read())

    return look


def _parse(text: str) -> tuple[Peer, ...]:
    members = [_member(each) for each in json.loads(text)["members"]]
    return tuple(
        Peer(m.host_number, m.mesh_key, m.mesh_next_key, m.endpoints, m.host_id)
        for m in members
        if m is not None and m.mesh_key and m.state != "removed"
    )


def _member(record: object) -> _Member | None:
    """Return a member; `None` for a record of a newer release that cannot be read."""
    try:
        return _Member.model_validate(record)
    except ValidationError:
        return None
