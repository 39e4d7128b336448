"""What a machine has beside its state: leases, metadata, versions, processes, memory."""

from collections.abc import Mapping

from godwit.base import errors
from godwit.client.machines import path
from godwit.client.records import Cpu, Memory, Process, Version
from godwit.client.transport import Transport


class Details:
    """One machine at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def break_lease(self, app: str, machine_id: str) -> bool:
        """End a lease whoever holds it; tell whether there was one."""
        try:
            await self._transport.call("DELETE", f"/x{path(app, machine_id, 'lease')}")
        except errors.Failure as failure:
            if failure.code == "not_found" and "lease not found" in failure.message:
                return False
            raise
        return True

    async def metadata(self, app: str, machine_id: str) -> dict[str, str]:
        """Return a machine's metadata."""
        answer = await self._transport.get(path(app, machine_id, "metadata"))
        return {str(key): str(value) for key, value in (answer or {}).items()}

    async def set_metadata(
        self, app: str, machine_id: str, values: Mapping[str, str | None]
    ) -> None:
        """Set keys of a machine's metadata, and remove those that are `None`."""
        await self._transport.call(
            "PATCH", path(app, machine_id, "metadata"), body={"metadata": dict(values)}
        )

    async def versions(self, app: str, machine_id: str) -> list[Version]:
        """Return the configs a machine has had, newest first."""
        answer = await self._transport.get(path(app, machine_id, "versions"))
        return [Version.model_validate(one) for one in answer or []]

    async def processes(
        self, app: str, machine_id: str, *, sort_by: str = "pid", descending: bool = False
    ) -> list[Process]:
        """Return the processes in a machine."""
        query = {"sort_by": sort_by, "order": "desc" if descending else "asc"}
        answer = await self._transport.get(path(app, machine_id, "ps"), query=query)
        return [Process.model_validate(one) for one in answer or []]

    async def memory(self, app: str, machine_id: str) -> Memory:
        """Return how much memory a machine may use, and how much of it is free."""
        answer = await self._transport.get(path(app, machine_id, "memory"))
        return Memory.model_validate(answer or {})

    async def cpu(self, app: str, machine_id: str) -> Cpu:
        """Return what CPU a running machine is sure of, and what it has saved."""
        answer = await self._transport.get(f"/x{path(app, machine_id, 'cpu')}")
        return Cpu.model_validate(answer or {})

    async def set_memory(self, app: str, machine_id: str, limit_mb: int) -> Memory:
        """Change how much memory a running machine may use."""
        answer = await self._transport.call(
            "PUT", path(app, machine_id, "memory"), body={"limit_mb": limit_mb}
        )
        return Memory.model_validate(answer or {})

    async def reclaim(self, app: str, machine_id: str, amount_mb: int) -> int:
        """Take back memory that a machine does not need; return how much came, in MB."""
        answer = await self._transport.call(
            "POST", path(app, machine_id, "memory/reclaim"), body={"amount_mb": amount_mb}
        )
        return int((answer or {}).get("actual_mb", 0))
