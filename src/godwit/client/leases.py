"""Leases of machines: whoever holds one changes the machine alone, for a time."""

from godwit.client import machines
from godwit.client.transport import Transport

TTL_S = 120
"""For how long unless told."""


class Leases:
    """Leases, one machine at a time. The nonce of one goes with every change of its machine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def acquire(
        self, app: str, machine_id: str, *, description: str, ttl_s: int = TTL_S, nonce: str = ""
    ) -> str:
        """Acquire a machine's lease, or with its nonce prolong it; return the nonce.

        Raises:
            Failure: `conflict` when somebody else holds it, saying who and until when.
        """
        answer = await self._transport.call(
            "POST",
            machines.path(app, machine_id, "lease"),
            body={"description": description, "ttl": ttl_s},
            headers=machines.lease_header(nonce),
        )
        return str(answer["data"]["nonce"])

    async def release(self, app: str, machine_id: str, nonce: str) -> None:
        """Give a lease back."""
        await self._transport.call(
            "DELETE", machines.path(app, machine_id, "lease"), headers=machines.lease_header(nonce)
        )
