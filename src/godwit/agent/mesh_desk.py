"""Answers what the operator asks of the mesh: how this host reaches each other one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from godwit.agent.network.mesh import Report
from godwit.base import errors, processes
from godwit.base.principal import Principal
from godwit.wire.mesh import MeshPeer, MeshReport

Ask = Callable[[], Awaitable[Sequence[Report]]]
"""Returns how each other host is reached."""

RoundTrip = Callable[[str], int | None]
"""Returns the round trip to a host in microseconds, if it is known."""


class MeshDesk:
    """Where that is answered."""

    def __init__(self, ask: Ask, round_trip: RoundTrip) -> None:
        self._ask = ask
        self._round_trip = round_trip

    def handlers(self) -> Mapping[str, Any]:
        """Return every verb of `wire.mesh` and its handler."""
        return {"mesh.report": self.report}

    async def report(self, who: Principal, body: dict[str, Any]) -> MeshReport:
        """Return all other hosts and how they are reached.

        Raises:
            Failure: `permission_denied` for all but the operator; `unavailable` while WireGuard
                cannot be asked.
        """
        del body
        who.require("hosts:read")
        if who.org_ids is not None:
            raise errors.Failure("permission_denied", "only the operator sees the mesh")
        try:
            found = await self._ask()
        except (OSError, ValueError, processes.ProgramFailed) as error:
            raise errors.Failure(
                "unavailable",
                f"WireGuard does not say how it is: {error}",
                hint="the host's log wireguard-go.log may tell why",
            ) from error
        return MeshReport(peers=tuple(self._peer(one) for one in found))

    def _peer(self, one: Report) -> MeshPeer:
        return MeshPeer(
            host_id=one.name,
            host_number=one.host_number,
            endpoint=one.endpoint,
            handshake_s=one.handshake_s,
            received=one.received,
            sent=one.sent,
            silent=one.silent,
            rtt_us=self._round_trip(one.name),
        )
