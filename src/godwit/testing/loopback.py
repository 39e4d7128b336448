"""Ports for servers that a test starts later: none twice, none that a client may be given.

A port that the kernel chooses (port 0) is anybody's again once it is let go of: it is chosen
again for the next server, or as the source of somebody's connection. These are below those that
the kernel gives to clients (`net.ipv4.ip_local_port_range`), in a range that no other process of
tests in this network has, and a process takes each of its own only once.
"""

import contextlib
import itertools
import os
import socket

_FIRST, _OF_A_PROCESS, _PROCESSES = 10_000, 1_000, 20


def _range() -> int:
    """Return the number of a range that is this process's until it ends."""
    own = os.getpid()
    for number in range(own, own + _PROCESSES):
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            # A name without a file: the kernel lets go of it when this process ends.
            claim.bind(f"\0godwit-test-ports-{number % _PROCESSES}")
            claim.detach()
            return number % _PROCESSES
        claim.close()
    return own % _PROCESSES


_begin = _FIRST + _range() * _OF_A_PROCESS
_ports = itertools.cycle(range(_begin, _begin + _OF_A_PROCESS))


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of an IPv4 address that is free and stays so until a test binds it."""
    while True:
        with socket.socket() as probe:
            port = next(_ports)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
