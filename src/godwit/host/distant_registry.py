"""The platform's registry as a control host sees it that does not have it.

Implements `control.ports.Warehouse`; what its disk holds, and what goes from it, is for control
on the registry's own host to say.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NoReturn

from godwit.base import errors
from godwit.images import collection, registry_disk


class DistantRegistry:
    """The registry of another host."""

    async def contents(self) -> registry_disk.Contents:
        """Refuse.

        Raises:
            Failure: `unavailable`, always. So do the others.
        """
        _refuse()

    async def taken(self, repositories: Iterable[str]) -> int:  # noqa: ARG002 - the port
        """Refuse."""
        _refuse()

    def space(self) -> collection.Space:
        """Refuse."""
        _refuse()

    async def recover(self) -> None:
        """Leave it to the registry's own host."""

    async def collect(
        self,
        images: Sequence[registry_disk.Pushed],  # noqa: ARG002 - the port
        keep: Collection[str],  # noqa: ARG002
    ) -> None:
        """Refuse."""
        _refuse()


def _refuse() -> NoReturn:
    raise errors.Failure(
        "unavailable",
        "the registry is on another host, whose control does not answer",
        hint="images that are there can be deployed; build and push once it is back",
    )
