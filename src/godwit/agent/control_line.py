"""The agent's line to control: it may be away, and nothing waits for it.

Made before the bus is joined and put through afterwards; implements `ports.Control`.
"""

from godwit.agent import ports
from godwit.base import errors
from godwit.wire import guest_api
from godwit.wire.secrets import HostSecrets


class ControlLine:
    """Asks control once there is a way to."""

    def __init__(self) -> None:
        self._through: ports.Control | None = None

    def put_through(self, control: ports.Control) -> None:
        """Ask by this from now on."""
        self._through = control

    async def pull_token(self, machine_id: str, reference: str) -> str | None:
        """Return what opens an image's registry for a machine of this host, now.

        Raises:
            Failure: What control said, or `unavailable`.
        """
        if self._through is None:
            raise errors.Failure("unavailable", "this host has not joined the bus yet")
        return await self._through.pull_token(machine_id, reference)

    async def guest_request(
        self, request: guest_api.GuestRequest, timeout_s: float
    ) -> guest_api.GuestAnswer:
        """Return the API's answer to what a machine's own process asked.

        Raises:
            Failure: What control said, or `unavailable`.
        """
        if self._through is None:
            raise errors.Failure("unavailable", "this host has not joined the bus yet")
        return await self._through.guest_request(request, timeout_s)

    async def secrets(self, machine_id: str) -> HostSecrets | None:
        """Return the newest secrets of a machine's app, sealed for this host.

        Raises:
            Failure: What control said, or `unavailable`.
        """
        if self._through is None:
            raise errors.Failure("unavailable", "this host has not joined the bus yet")
        return await self._through.secrets(machine_id)

    async def deed(self, deed: guest_api.Deed) -> None:
        """Have it written down what a machine of this host did to itself.

        Raises:
            Failure: What control said, or `unavailable`.
        """
        if self._through is None:
            raise errors.Failure("unavailable", "this host has not joined the bus yet")
        await self._through.deed(deed)
