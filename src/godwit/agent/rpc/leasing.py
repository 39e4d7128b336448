"""Leases by request."""

from typing import Any

from godwit.agent.machines import leases
from godwit.agent.rpc.desk import Change, Desk, OfMachine, of_platform, parse
from godwit.base import errors
from godwit.base.principal import Principal
from godwit.wire import host_rpc


class Leasing:
    """Answers what is asked about who may change a machine."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return the lease that is held; its nonce only to the platform's own parts."""
        driver = self._desk.find(who, "machines:read", parse(OfMachine, body).machine_id)
        held = self._desk.leases.held(driver.machine.machine_id)
        version, told = driver.snapshot.version, of_platform(who)
        lease = None if held is None else leases.public(held, version, to_holder=told)
        return {"lease": None if lease is None else lease.model_dump(mode="json")}

    async def acquire(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Acquire a lease, or prolong the caller's own."""
        asked = parse(host_rpc.LeaseRequest, body)
        driver = self._desk.find(who, "machines:write", asked.machine_id)
        if driver.machine.state == "destroyed":
            raise errors.not_found("machine is destroyed")
        held = await self._desk.leases.acquire(driver.machine, asked)
        lease = leases.public(held, driver.snapshot.version, to_holder=True)
        return {"lease": lease.model_dump(mode="json")}

    async def release(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Give a lease back; the platform's own word ends it, whoever holds it."""
        asked = parse(Change, body)
        driver = self._desk.find(who, "machines:write", asked.machine_id)
        if of_platform(who):
            await self._desk.leases.end(driver.machine)
        else:
            await self._desk.leases.release(driver.machine, asked.nonce)
        return {}
