"""A guest with a kernel of its own: a namespace whose Ethernet is a machine's tap.

What a machine's init sets up is set up here, so programs in it meet the host's packet policy and
whatever the host serves as those of a real machine do.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from godwit.agent import slots
from tests.host import network_lab as lab

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_HEADER = bytes(10)
"""The virtio-net header of the host's tap, without offloads."""
_LARGEST = 70_000


class WiredGuest:
    """A machine at a slot whose tap is there."""

    def __init__(self, slot: int, address: str, *, mtu: int = 1420) -> None:
        """Take the host's end of the cable, in the host's namespace."""
        self.address = address
        self._slot, self._mtu = slot, mtu
        self._host = slots.open_tap(slots.tap_name(slot))
        self._thread = ThreadPoolExecutor(1, f"guest{slot}", initializer=lab.unshare_network)
        self._guest = -1
        self._end, self._over = os.pipe()
        self._pump = threading.Thread(target=self._carry, daemon=True)

    async def connect(self) -> None:
        """Give the guest its interface."""
        await lab.running(slots.tap_name(self._slot))
        self._guest = self._thread.submit(_tap).result()
        lines = (
            "link set lo up",
            f"link set eth0 address {slots.guest_mac(self._slot)} mtu {self._mtu} up",
            f"addr add {self.address}/128 dev eth0 nodad",
            f"route add default via {lab.GATEWAY_V6} dev eth0 src {self.address}",
        )
        self._thread.submit(asyncio.run, lab.ip(*lines)).result()
        self._pump.start()

    def close(self) -> None:
        """Pull the cable."""
        os.close(self._over)
        self._pump.join()
        self._thread.shutdown()
        for end in (self._host, self._guest, self._end):
            os.close(end)

    def run(self, *lines: str) -> None:
        """Run lines of `ip -batch` in the guest."""
        self._thread.submit(asyncio.run, lab.ip(*lines)).result()

    def socket(self, source: str = "", port: int = 0) -> socket.socket:
        """Return a stream socket of the guest's, bound if a source or port is given."""
        return self._thread.submit(_socket, source, port).result()

    @contextlib.asynccontextmanager
    async def connected(
        self, address: str, port: int, **more: object
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect from within the guest; `own` is a socket of it to do so."""
        own = more.pop("own", None) or self.socket()
        assert isinstance(own, socket.socket)
        async with asyncio.timeout(lab.PATIENCE_S):
            try:
                await asyncio.get_running_loop().sock_connect(own, (address, port))
            except OSError:
                own.close()
                raise
            reader, writer = await asyncio.open_connection(sock=own, **more)
        try:
            async with asyncio.timeout(lab.PATIENCE_S):
                yield reader, writer
        finally:
            writer.close()

    def _carry(self) -> None:
        """Carry frames both ways until the cable is pulled."""
        while True:
            ready = select.select([self._host, self._guest, self._end], [], [])[0]
            if self._end in ready:
                return
            with contextlib.suppress(BlockingIOError, OSError):
                if self._host in ready:
                    os.write(self._guest, os.read(self._host, _LARGEST)[len(_HEADER) :])
            with contextlib.suppress(BlockingIOError, OSError):
                if self._guest in ready:
                    os.write(self._host, _HEADER + os.read(self._guest, _LARGEST))


def _tap() -> int:
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(made, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TAP | _IFF_NO_PI))
    return made


def _socket(source: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    made.setblocking(False)
    # One port to several places at once, as a kernel that has few left chooses them.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if source or port:
        made.bind((source or "::", port))
    return made
