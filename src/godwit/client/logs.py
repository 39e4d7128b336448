"""What machines print: `GET /api/v1/apps/{app}/logs`."""

from typing import Any

from godwit.client.records import LogLine, LogPage
from godwit.client.transport import Transport


class Logs:
    """Log lines, page by page."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def page(
        self,
        app: str,
        *,
        next_token: str = "",
        instance: str | None = None,
        region: str | None = None,
    ) -> LogPage:
        """Return the newest lines, or those after `next_token`."""
        answer = await self._transport.get(
            f"/api/v1/apps/{app}/logs",
            query={"next_token": next_token or None, "instance": instance, "region": region},
        )
        answer = answer or {}
        return LogPage(
            lines=[_line(one) for one in answer.get("data") or []],
            next_token=(answer.get("meta") or {}).get("next_token") or "",
        )


def _line(entry: dict[str, Any]) -> LogLine:
    attributes = entry.get("attributes") or {}
    meta = attributes.get("meta") or {}
    return LogLine.model_validate({"stream": meta.get("stream") or "", **attributes})
