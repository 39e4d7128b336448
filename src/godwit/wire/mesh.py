"""Control to host about the mesh: how the host reaches all others.

    mesh.report     {}        → MeshReport

For the platform and its operator.
"""

from godwit.wire.record import Record


class MeshPeer(Record):
    """How one other host is reached.

    Attributes:
        endpoint: Where packets to it go now; empty when that is not known.
        handshake_s: Unix time of the last handshake; 0 for never.
        received: Bytes; `sent` likewise.
        silent: Nothing has been heard of it lately.
        rtt_us: The round trip as this host's edge measures it; `None` when it has not yet.
    """

    host_id: str
    host_number: int
    endpoint: str = ""
    handshake_s: int = 0
    received: int = 0
    sent: int = 0
    silent: bool = True
    rtt_us: int | None = None


class MeshReport(Record):
    """All other hosts, by their numbers."""

    v: int = 1
    peers: tuple[MeshPeer, ...] = ()
