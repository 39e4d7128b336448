"""The outermost layer: a request id on every answer, and no bug without an answer."""

import asyncio
import logging
import re
import secrets

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from godwit.api import problems
from godwit.base import errors, ids

logger = logging.getLogger(__name__)

_TRACEPARENT = re.compile(
    rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
"""W3C Trace Context, §3.2."""


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
        trace = _trace(scope)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [
                    *message.get("headers", ()),
                    (b"fly-request-id", request_id.encode()),
                    *trace,
                ]
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


def _trace(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers that name a request in the caller's trace, or in one of its own."""
    given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    found = _TRACEPARENT.fullmatch(given)
    trace_id = found[1] if found else secrets.token_hex(16).encode()
    return [(b"fly-trace-id", trace_id), (b"fly-span-id", secrets.token_hex(8).encode())]
