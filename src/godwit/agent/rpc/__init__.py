"""The requests of `wire.host_rpc`, answered: parse, look up, call one function, wrap.

Every handler takes the `Principal` that the request carries. What a principal may not see does
not exist for it. `desk` holds what all handlers share; each other module answers one subject.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any

from godwit.agent.rpc.desk import Desk, Handler
from godwit.agent.rpc.draining import DrainDesk
from godwit.agent.rpc.guests import Guests
from godwit.agent.rpc.leasing import Leasing
from godwit.agent.rpc.look import Look
from godwit.agent.rpc.machines import Lifecycle
from godwit.agent.rpc.metadata import MetadataDesk
from godwit.base import errors
from godwit.base.principal import Principal
from godwit.wire.record import Record

__all__ = ["Desk", "Handler", "answering", "handlers"]


def answering(handler: Handler) -> Handler:
    """Return a handler that says so when this host's database does not answer."""

    async def answer(who: Principal, body: dict[str, Any]) -> Record | dict[str, Any]:
        try:
            return await handler(who, body)
        except sqlite3.OperationalError as error:
            raise errors.Failure(
                "unavailable", f"the host's database does not answer: {error}"
            ) from error

    return answer


def handlers(desk: Desk) -> Mapping[str, Handler]:
    """Return every verb and its handler."""
    lifecycle, leasing, metadata = Lifecycle(desk), Leasing(desk), MetadataDesk(desk)
    guests, look, drains = Guests(desk), Look(desk), DrainDesk(desk)
    return {
        "machine.reserve": lifecycle.reserve,
        "machine.get": look.get,
        "machine.list": look.list,
        "machine.versions": look.versions,
        "machine.update": lifecycle.update,
        "machine.start": lifecycle.start,
        "machine.stop": lifecycle.stop,
        "machine.restart": lifecycle.restart,
        "machine.suspend": lifecycle.suspend,
        "machine.signal": guests.signal,
        "machine.destroy": lifecycle.destroy,
        "machine.cordon": lifecycle.cordon,
        "machine.uncordon": lifecycle.uncordon,
        "machine.drain": drains.drain,
        "machine.undrain": drains.undrain,
        "machine.wait": look.wait,
        "machine.exec": guests.exec,
        "machine.ps": guests.ps,
        "machine.events": look.events,
        "machine.lease.get": leasing.get,
        "machine.lease.acquire": leasing.acquire,
        "machine.lease.release": leasing.release,
        "machine.metadata.get": metadata.get,
        "machine.metadata.patch": metadata.patch,
        "machine.memory.get": guests.memory,
        "machine.memory.set": guests.set_memory,
        "machine.memory.reclaim": guests.reclaim,
        "logs.read": look.read_logs,
        "usage.read": look.read_usage,
    }
