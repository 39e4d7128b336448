"""The outermost layer: a request id on every answer, and no bug without an answer."""

import asyncio
import logging

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from godwit.api import problems
from godwit.base import errors, ids

logger = logging.getLogger(__name__)


class Guard:
    """Gives every request an id, and answers 500 for what escapes."""

    def __init__(self, app: ASGIApp, region: str) -> None:
        self._app = app
        self._region = region

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{ids.ulid()}-{self._region}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message.get("headers", ()), (b"fly-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server ends and has waited long enough: tell the client to ask again.
            if started:
                raise
            failure = errors.Failure("unavailable", "the API is going down", hint="ask again")
            answer = JSONResponse(problems.body(failure), 503)
            await answer(scope, receive, send_with_id)
        except Exception:
            # The edge of the process: a bug must be answered and logged, and end nothing else.
            logger.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if not started:
                failure = errors.Failure("internal", f"this is a fault of Godwit: {request_id}")
                answer = JSONResponse(problems.body(failure), 500)
                await answer(scope, receive, send_with_id)
