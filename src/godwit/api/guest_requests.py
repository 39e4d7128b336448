"""What machines' own processes ask at `/.fly/api`: the same API, asked over the bus by their host.

Without a token it is the machine that asks: its host says which one, and is believed for machines
that live on it. Such a principal gets the routes that are declared its `own`, for itself alone.
"""

from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from godwit.api.routing import VOUCHED_FOR
from godwit.base import errors, principal
from godwit.control.context import Context
from godwit.control.host_requests import app_of
from godwit.wire import guest_api

_BASE = "http://flaps"


class GuestRequests:
    """Answers hosts that pass on what their machines ask.

    Args:
        ctx: Control.
        app: The API.
    """

    def __init__(self, ctx: Context, app: ASGIApp) -> None:
        self._ctx = ctx
        self._app = app

    async def answer(self, host_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the API's answer.

        Raises:
            Failure: `not_found` (no such machine on that host), `invalid_argument`; `internal`
                when the answer is too large.
        """
        asked = guest_api.GuestRequest.model_validate(body)
        app = await app_of(self._ctx, host_id, asked.machine_id)
        try:
            request = httpx.Request(
                asked.method,
                httpx.URL(_BASE).join(asked.target),
                headers=[*asked.headers],
                content=asked.body,
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise errors.invalid(f"this is no request: {error}") from error
        who = principal.machine(asked.machine_id, app.org_id)
        transport = httpx.ASGITransport(_vouching(self._app, who), raise_app_exceptions=False)
        answer = await transport.handle_async_request(request)
        content = await answer.aread()
        if len(content) > guest_api.MOST_ANSWER_BYTES:
            raise errors.Failure(
                "internal",
                f"the answer is over {guest_api.MOST_ANSWER_BYTES} bytes",
                hint="ask for less at once, with limit or summary",
            )
        headers = tuple(answer.headers.items())
        return guest_api.answer(answer.status_code, headers, content).model_dump(mode="json")


def _vouching(app: ASGIApp, who: principal.Principal) -> ASGIApp:
    async def vouched(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, VOUCHED_FOR: who}, receive, send)

    return vouched
