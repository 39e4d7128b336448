"""The link between the routers of two regions: `python -m lab.relay --socket PATH …`.

Holds a tun device of each router and carries packets from one to the other, each direction with
its own delay and loss. This kernel's netem is what it stands in for. Packets pass as the kernel
hands them over, checksums and segmentation left undone (`IFF_VNET_HDR`), so that a bulk transfer
costs a read and a write per 64 KB and not per frame. One process per pair of regions; told what to
do on a Unix socket (`links.Link`), one packet for a request and one for its answer.
"""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import random
import select
import socket
import struct
import sys
import time
from dataclasses import asdict
from pathlib import Path

from lab import entering
from lab.lane import Condition, Lane

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN (linux/if_tun.h)."""
_UDP_OFFLOADS = 0x20 | 0x40
"""TUN_F_USO4, TUN_F_USO6: since Linux 6.2."""
_LARGEST = 65_535 + 64
_BATCH = 64
"""Packets read from one side before the other gets its turn."""
_REQUEST_BYTES = 4_096
_PRIORITY = -10
"""Before the emulated machines: what the relay is late is added to every delay."""


def open_tun(name: str, network_of: int) -> int:
    """Return a descriptor of a tun device that exists in another process's network.

    Args:
        name: Of the device; made with `vnet_hdr`.
        network_of: The process.
    """
    entering.network_of(network_of)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    try:
        fcntl.ioctl(tun, _TUNSETOFFLOAD, _OFFLOADS | _UDP_OFFLOADS)
    except OSError:
        fcntl.ioctl(tun, _TUNSETOFFLOAD, _OFFLOADS)
    return tun


class Relay:
    """Two devices, two lanes.

    Args:
        ends: The descriptor of each end's device, by its name.
        lanes: By direction: `fra>iad` is what `fra` sends.
        listening: The socket that requests come to.
    """

    def __init__(
        self, ends: dict[str, int], lanes: dict[str, Lane], listening: socket.socket
    ) -> None:
        self._lanes = lanes
        self._listening = listening
        self._asking: dict[int, socket.socket] = {}
        self._from = {ends[way.split(">")[0]]: lane for way, lane in lanes.items()}
        self._to = [(ends[way.split(">")[1]], lane) for way, lane in lanes.items()]

    def run(self) -> None:
        """Carry packets for ever."""
        while True:
            reading = [*self._from, self._listening.fileno(), *self._asking]
            # Microseconds; epoll would round up to the next millisecond.
            ready, _, _ = select.select(reading, (), (), self._pause())
            for descriptor in ready:
                if descriptor in self._from:
                    self._read(descriptor)
                elif descriptor in self._asking:
                    self._answer(descriptor)
                else:
                    self._accept()
            for end, lane in self._to:
                self._write(end, lane)

    def _pause(self) -> float | None:
        waiting = [due for lane in self._lanes.values() if (due := lane.due) is not None]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _read(self, tun: int) -> None:
        lane = self._from[tun]
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                lane.take(os.read(tun, _LARGEST), time.monotonic())

    @staticmethod
    def _write(tun: int, lane: Lane) -> None:
        for _ in range(_BATCH):
            packet = lane.give(time.monotonic())
            if packet is None:
                return
            try:
                os.write(tun, packet)
            except OSError as error:
                if error.errno == errno.EBADFD:
                    raise
                lane.refuse()

    def _accept(self) -> None:
        asking, _ = self._listening.accept()
        asking.setblocking(False)
        self._asking[asking.fileno()] = asking

    def _answer(self, descriptor: int) -> None:
        asking = self._asking[descriptor]
        try:
            request = asking.recv(_REQUEST_BYTES)
            if request:
                asking.send(self._asked(request))
                return
        except OSError:
            # It went away, or does not read its answers.
            pass
        del self._asking[descriptor]
        asking.close()

    def _asked(self, request: bytes) -> bytes:
        """Return the answer to a request: `{"fra>iad": {"delay_ms": 40}}`, both ways or none."""
        try:
            wanted = {way: Condition(**one) for way, one in json.loads(request).items()}
            unknown = sorted(set(wanted) - set(self._lanes))
        except (ValueError, TypeError, AttributeError) as error:
            return json.dumps({"error": str(error)}).encode()
        if unknown:
            return json.dumps({"error": f"no such direction: {', '.join(unknown)}"}).encode()
        for way, condition in wanted.items():
            self._lanes[way].change(condition)
        return json.dumps({way: asdict(one.report()) for way, one in self._lanes.items()}).encode()


def main() -> int:
    """Carry packets until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--end", nargs=3, action="append", metavar=("NAME", "DEVICE", "PID"), required=True
    )
    given = parser.parse_args()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    ends = {name: open_tun(device, int(pid)) for name, device, pid in given.end}
    a, b = ends
    condition = Condition(delay_ms=given.delay_ms)
    chance = random.Random(given.seed)  # noqa: S311 (which packets are lost is no secret)
    lanes = {way: Lane(condition, chance.random) for way in (f"{a}>{b}", f"{b}>{a}")}
    # Bound last, and under another name first: who finds the socket finds it answering.
    scratch = given.socket.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    listening.bind(str(scratch))
    listening.listen()
    scratch.rename(given.socket)
    Relay(ends, lanes, listening).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
