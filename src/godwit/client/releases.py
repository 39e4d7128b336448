"""Releases of an app: `/x/v1/apps/{app}/releases`."""

from godwit.client.records import Release
from godwit.client.transport import Transport


class Releases:
    """Releases: what was deployed, when, by whom and how it ended."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, app: str, *, limit: int = 25) -> list[Release]:
        """Return the newest releases first."""
        answer = await self._transport.get(_path(app), query={"limit": limit})
        return [Release.model_validate(one) for one in answer.get("releases") or []]

    async def get(self, app: str, id_or_version: str | int) -> Release:
        """Return one release, with the definition it was made of.

        Raises:
            ApiFailure: 404 when there is none.
        """
        answer = await self._transport.get(f"{_path(app)}/{id_or_version}")
        return Release.model_validate(answer)


def _path(app: str) -> str:
    return f"/x/v1/apps/{app}/releases"
