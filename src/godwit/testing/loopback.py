"""Ports for servers that a test starts later: none twice, none that a client may be given.

A port that the kernel chooses (port 0) is anybody's again once it is let go of: it is chosen
again for the next server, or as the source of somebody's connection. These are below those that
the kernel gives to clients (`net.ipv4.ip_local_port_range`), and a process takes each of its own
only once.
"""

import itertools
import os
import socket

_FIRST, _OF_A_PROCESS, _PROCESSES = 10_000, 1_000, 20
_begin = _FIRST + os.getpid() % _PROCESSES * _OF_A_PROCESS
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
