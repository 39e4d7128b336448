"""Metadata by request: reads and writes that make no version and need no lease."""

from typing import Any

from godwit.agent.machines import metadata
from godwit.agent.rpc.desk import Desk, OfMachine, parse
from godwit.base import clock, errors
from godwit.base.principal import Principal
from godwit.wire import host_rpc
from godwit.wire.record import Record


class MetadataDesk:
    """Answers what is asked about machines' metadata."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return a machine's metadata."""
        driver = self._desk.find(who, "machines:read", parse(OfMachine, body).machine_id)
        snapshot = driver.snapshot
        written = self._desk.metadata.written(snapshot.machine.machine_id, snapshot.version)
        return host_rpc.Metadata(
            metadata=metadata.values(snapshot, written),
            updated_at=clock.rfc3339(metadata.updated_at_ms(snapshot, written)),
            version=snapshot.version,
        )

    async def patch(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Set and remove keys; edges and DNS learn of it at once."""
        asked = parse(host_rpc.MetadataPatch, body)
        driver = self._desk.find(who, "machines:write", asked.machine_id)
        if driver.machine.state == "destroyed":
            raise errors.not_found("machine is destroyed")
        if await self._desk.metadata.patch(driver.snapshot, asked):
            driver.touch()
        return {}
