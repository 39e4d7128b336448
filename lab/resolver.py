"""A region's resolver, on its router: `python -m lab.resolver --address ADDRESS --names FILE`.

Answers, over UDP, the names of nodes, and every name below the apps' domain with the hosts of the
region, as a name server that knows where its askers are. There is nothing else in this internet.
"""

import argparse
import json
import socket
import struct
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

Names = Mapping[str, tuple[str, ...]]
"""Name, or `*.` and a domain, to addresses of either family."""

_A, _AAAA, _INTERNET = 1, 28, 1
_RESPONSE, _RECURSION, _ASKED_RECURSION, _NO_SUCH_NAME = 0x8000, 0x0080, 0x0100, 3
_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_THE_NAME_ASKED = b"\xc0\x0c"
"""A pointer to the question (RFC 1035, 4.1.4)."""
_TTL_S = 5
_PORT = 53
_LONGEST_LABEL = 63


def answer(query: bytes, names: Names) -> bytes | None:
    """Return the answer to a query; `None` when it is none."""
    try:
        number, flags, questions, _, _, _ = _HEADER.unpack_from(query)
        name, end = _name(query, _HEADER.size)
        kind, group = _QUESTION.unpack_from(query, end)
    except (struct.error, IndexError, ValueError):
        return None
    if flags & _RESPONSE or questions != 1:
        return None
    addresses = find(name, names)
    packed = [ip_address(one).packed for one in addresses or ()]
    size = {_A: 4, _AAAA: 16}.get(kind, 0) if group == _INTERNET else 0
    records = [_record(kind, data) for data in packed if len(data) == size]
    said = _RESPONSE | _RECURSION | flags & _ASKED_RECURSION
    header = (number, said | (_NO_SUCH_NAME if addresses is None else 0), 1, len(records), 0, 0)
    question = query[_HEADER.size : end + _QUESTION.size]
    return _HEADER.pack(*header) + question + b"".join(records)


def find(name: str, names: Names) -> tuple[str, ...] | None:
    """Return a name's addresses, `None` when there is no such name."""
    if name in names:
        return names[name]
    domain = name
    while domain:
        _, _, domain = domain.partition(".")
        if f"*.{domain}" in names:
            return names[f"*.{domain}"]
    return None


def _name(query: bytes, at: int) -> tuple[str, int]:
    """Return the name at an offset, without its last dot, and where it ends."""
    labels = []
    while (length := query[at]) != 0:
        if length > _LONGEST_LABEL:
            raise ValueError("a question needs no pointers")
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _record(kind: int, data: bytes) -> bytes:
    fields = struct.pack("!HHIH", kind, _INTERNET, _TTL_S, len(data))
    return _THE_NAME_ASKED + fields + data


def main() -> int:
    """Answer until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--names", type=Path, required=True)
    given = parser.parse_args()
    names = {name: tuple(found) for name, found in json.loads(given.names.read_text()).items()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind((given.address, _PORT))
        print("ready", flush=True)
        while True:
            query, asker = asked.recvfrom(4_096)
            reply = answer(query, names)
            if reply is not None:
                asked.sendto(reply, asker)


if __name__ == "__main__":
    sys.exit(main())
