"""Listening Unix sockets that a VMM inherits."""

import os
import socket
from pathlib import Path

from godwit.base import errors

_PATH_LIMIT = 107


def listen(path: Path) -> int:
    """Return a listening socket at the path, for the VMM to accept on.

    Raises:
        Failure: `invalid_argument` the path is longer than a socket's may be.
    """
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise errors.invalid(
            f"the socket path {path} is too long", hint="choose a shorter run directory"
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen(1)
        return listener.detach()
    finally:
        listener.close()
