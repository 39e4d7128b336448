"""Drains by request."""

from typing import Any

from pydantic import Field

from godwit.agent.draining import LONGEST_S
from godwit.agent.rpc.desk import Change, Desk, parse
from godwit.base.principal import Principal
from godwit.wire import host_rpc
from godwit.wire.record import Record


class Drain(Change):
    """Body of `machine.drain`; no drain takes longer than `LONGEST_S`."""

    timeout_s: float = Field(30.0, ge=0)


class DrainDesk:
    """Answers who wants a machine's requests to end before it does."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def drain(self, who: Principal, body: dict[str, Any]) -> Record:
        """Keep new requests away, and wait for those in flight."""
        asked = parse(Drain, body)
        self._desk.change(who, asked)
        left = await self._desk.drains.drain(asked.machine_id, min(asked.timeout_s, LONGEST_S))
        return host_rpc.Drained(in_flight=left.requests, tunnels=left.tunnels, edges=left.edges)

    async def undrain(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Let requests in again."""
        asked = parse(Change, body)
        self._desk.change(who, asked)
        self._desk.drains.undrain(asked.machine_id)
        return {}
