"""The joining endpoint: requests of servers that are not, or not surely, members; or hold a token.

An application of its own, on a listener of its own (TLS, open to the internet): nothing of the
API is reached through it. Every body is signed (`wire.joining`) and bounded.
"""

from collections.abc import Awaitable, Callable

import pydantic
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from godwit.base import errors
from godwit.control import joining as service
from godwit.control.context import Context
from godwit.wire import joining
from godwit.wire.record import Record

Handler = Callable[[Context, joining.Signed], Awaitable[Record]]


def create(ctx: Context) -> Starlette:
    """Return the application."""

    def route(path: str, handler: Handler) -> Route:
        async def answer(request: Request) -> Response:
            try:
                signed = joining.Signed.model_validate_json(await _body(request))
                return _json(await handler(ctx, signed), 200)
            except pydantic.ValidationError:
                return _problem(errors.invalid("the request cannot be read"))
            except errors.Failure as failure:
                return _problem(failure)

        return Route(path, answer, methods=["POST"])

    return Starlette(
        routes=[
            route("/join", service.join),
            route("/standing", service.standing),
            route("/bus", service.serve_bus),
        ]
    )


async def _body(request: Request) -> bytes:
    """Return the request's body.

    Raises:
        Failure: `invalid_argument` when it is too long, or not whole.
    """
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > joining.MOST_BYTES:
                raise errors.invalid(f"the request is over {joining.MOST_BYTES} bytes")
    except ClientDisconnect as error:
        raise errors.invalid("the request ends too early") from error
    return body


def _problem(failure: errors.Failure) -> Response:
    told = joining.Problem(code=failure.code, message=failure.message, hint=failure.hint)
    return _json(told, errors.STATUS[failure.code])


def _json(record: Record, status: int) -> Response:
    return Response(record.model_dump_json(), status, media_type="application/json")
