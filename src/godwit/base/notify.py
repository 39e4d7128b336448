"""Telling the supervisor that a process is ready: the sd_notify protocol.

Source: systemd's sd_notify(3). Works under `godwit up` and under systemd alike.
"""

import os
import socket


def notify(state: str) -> bool:
    """Send a state such as `READY=1`; return whether somebody asked to be told."""
    line = open_line()
    if line is None:
        return False
    with line:
        line.sendall(state.encode())
    return True


def open_line() -> socket.socket | None:
    """Return a line to who asked to be told, good also after becoming another user."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    target = "\0" + address[1:] if address.startswith("@") else address
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        line.connect(target)
    except OSError:
        line.close()
        raise
    return line
