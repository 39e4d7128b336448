"""Releases of an app: `/x/v1/apps/{app}/releases`."""

from typing import Any, Literal

from godwit.client.records import Release
from godwit.client.transport import Transport

Status = Literal["running", "complete", "failed", "interrupted"]


class Releases:
    """Releases: what was deployed, when, by whom and how it ended."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, app: str, *, limit: int = 25) -> list[Release]:
        """Return the newest releases first."""
        answer = await self._transport.get(_path(app), query={"limit": limit})
        return [Release.model_validate(one) for one in answer.get("releases") or []]

    async def create(
        self, app: str, *, image: str, strategy: str, config: dict[str, Any], description: str
    ) -> Release:
        """Begin a release and return it with its number.

        Args:
            app: Whose it is.
            image: What its machines will run.
            strategy: `rolling`, `immediate`, …
            config: The definition: the file in canonical spelling, with this deploy's changes.
            description: One line for people.
        """
        answer = await self._transport.call(
            "POST",
            _path(app),
            body={
                "image": image,
                "strategy": strategy,
                "config": config,
                "description": description,
            },
        )
        return Release.model_validate(answer)

    async def finish(self, app: str, release: Release, status: Status, *, error: str = "") -> None:
        """Say how a release stands or ended."""
        body = {"status": status, **({"error": error} if error else {})}
        await self._transport.call("PATCH", f"{_path(app)}/{release.version}", body=body)


def _path(app: str) -> str:
    return f"/x/v1/apps/{app}/releases"
