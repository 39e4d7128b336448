"""Under which address machines are seen outside: the host's, because they leave by NAT.

Asked of the kernel's routes by connecting a datagram socket, which sends nothing.
"""

import ipaddress
import socket
from collections.abc import Callable

_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_V6_OUTSIDE, _V4_OUTSIDE = "2001:4860:4860::8888", "8.8.8.8"
"""Some address of the world for each family; only the route to it is looked up."""
_PORT = 53
_KEPT_S = 30.0


def public_ip(uplink: str | None) -> str:
    """Return the source address outside, empty when there is no way out.

    Args:
        uplink: The interface by which machines leave; `None` for the route's own.
    """
    v6 = _source(socket.AF_INET6, _V6_OUTSIDE, uplink)
    return preferred(v6, _source(socket.AF_INET, _V4_OUTSIDE, uplink))


def preferred(v6: str, v4: str) -> str:
    """Return a public IPv6 if there is one, else what NAT gives: IPv4, or any IPv6."""
    if v6 and ipaddress.IPv6Address(v6) in _PUBLIC_V6:
        return v6
    return v4 or v6


def _source(family: socket.AddressFamily, outside: str, uplink: str | None) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            if uplink is not None:
                asked.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, uplink.encode())
            asked.connect((outside, _PORT))
            return str(asked.getsockname()[0])
    except OSError:
        return ""


class Outbound:
    """The address outside, looked up now and then: hosts move, and it is asked for often.

    Args:
        uplink: As `public_ip`.
        monotonic: Seconds.
        look: Looks it up.
    """

    def __init__(
        self,
        uplink: str | None,
        *,
        monotonic: Callable[[], float],
        look: Callable[[str | None], str] = public_ip,
    ) -> None:
        self._uplink = uplink
        self._monotonic = monotonic
        self._look = look
        self._known = ""
        self._until = float("-inf")

    def address(self) -> str:
        """Return the address, at most half a minute old."""
        now = self._monotonic()
        if now >= self._until:
            self._known = self._look(self._uplink)
            self._until = now + _KEPT_S
        return self._known
