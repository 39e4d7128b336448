"""Telling the supervisor that a process is ready: the sd_notify protocol.

Source: systemd's sd_notify(3). Works under `godwit up` and under systemd alike.
"""

import os
import socket


def notify(state: str) -> bool:
    """Send a state such as `READY=1`; return whether somebody asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(target)
        sender.sendall(state.encode())
    return True
