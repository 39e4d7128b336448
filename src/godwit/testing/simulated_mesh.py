"""How a simulated host reaches all others."""

from collections.abc import Awaitable, Callable
from typing import Any

from godwit.wire.mesh import MeshReport


class SimulatedMesh:
    """The part of a host that is in the mesh.

    Attributes:
        reached: What it says of the others.
    """

    def __init__(self) -> None:
        self.reached = MeshReport()

    def handlers(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """Return every verb and its handler."""
        return {"mesh.report": self._report}

    async def _report(self, _: dict[str, Any]) -> MeshReport:
        return self.reached
