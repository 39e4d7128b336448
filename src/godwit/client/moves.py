"""Moves: machines that are made anew elsewhere."""

from godwit.client import machines
from godwit.client.records import Move
from godwit.client.transport import Transport


class Moves:
    """Moves, one machine at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def ask(self, app: str, machine_id: str, region: str = "") -> Move:
        """Have a machine move; returns before it does.

        Args:
            app: Whose machine.
            machine_id: Which one.
            region: Where to; empty stands for another host of its region.

        Raises:
            Failure: `invalid_argument`, `conflict` when it is on its way somewhere else.
        """
        answer = await self._transport.call(
            "POST", _path(app, machine_id), body={"region": region}
        )
        return Move.model_validate(answer)

    async def get(self, app: str, machine_id: str) -> Move:
        """Return how it comes along."""
        return Move.model_validate(await self._transport.get(_path(app, machine_id)))

    async def cancel(self, app: str, machine_id: str) -> None:
        """Leave a machine where it is.

        Raises:
            Failure: `conflict` when there is no way back any more.
        """
        await self._transport.call("DELETE", _path(app, machine_id))


def _path(app: str, machine_id: str) -> str:
    return f"/x{machines.path(app, machine_id, 'move')}"
