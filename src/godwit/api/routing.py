"""Routes that say what they need: guarded by it before anything of the request is read.

Order for every request: routed (else 404) → token → scope → body (bounded, strict JSON) → the
route. A route's own function then calls one service function, which checks again, per
organization.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from godwit.api import problems, strict_json
from godwit.base import errors
from godwit.base.principal import Principal, Scope
from godwit.control import tokens
from godwit.control.context import Context

Need = Scope | Literal["public", "token", "basic"]
"""`token` is any good token; `basic` means that the route itself reads basic auth."""

MAX_BODY_BYTES = 393_216
"""A machine config and its envelope have to fit the bus's 512 KiB."""

_BODY_S = 30.0
_MOST_TOKENS = 8
_NEED = "x-godwit-scope"


class JsonRequest(Request):
    """A request whose JSON body has been read."""

    def __init__(self, request: Request, data: bytes, value: Any) -> None:
        headers = MutableHeaders(raw=list(request.scope["headers"]))
        headers["content-type"] = "application/json"
        super().__init__({**request.scope, "headers": headers.raw}, request.receive)
        self._body = data
        self._json = value


class Route(APIRoute):
    """A route that declares what it needs."""

    @property
    def need(self) -> Need:
        """Return what it declares."""
        declared: Need = (self.openapi_extra or {})[_NEED]
        return declared

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with the guard around it."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def guarded(request: Request) -> Response:
            await _authorize(request, self.need)
            if takes_body:
                request = await _read_json(request)
            return await handle(request)

        return guarded


def needs(need: Need, **extra: Any) -> dict[str, Any]:
    """Return the declaration for a route: `@router.get(…, openapi_extra=needs("apps:read"))`."""
    security: list[dict[str, list[str]]] = []
    if need == "basic":
        security = [{"registry": []}]
    elif need != "public":
        security = [{"token": []}]
    return {_NEED: need, "security": security, **extra}


def router(tag: str) -> APIRouter:
    """Return a router for one resource's routes."""
    return APIRouter(route_class=Route, tags=[tag])


async def authenticate(request: Request) -> Principal | None:
    """Return who asks by `Authorization: Bearer …` or `FlyV1 …,…`."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    candidates = [credentials.strip()]
    if scheme.lower() == "flyv1":
        candidates = [part.strip() for part in credentials.split(",")][:_MOST_TOKENS]
    elif scheme.lower() != "bearer":
        return None
    for candidate in candidates:
        who = await tokens.authenticate(context(request), candidate)
        if who is not None:
            return who
    return None


def context(request: Request) -> Context:
    """Return control's ports and settings."""
    ctx: Context = request.app.state.ctx
    return ctx


def _principal(request: Request) -> Principal:
    who: Principal = request.state.principal
    return who


Ctx = Annotated[Context, Depends(context)]
Who = Annotated[Principal, Depends(_principal)]


async def _authorize(request: Request, need: Need) -> None:
    if need in ("public", "basic"):
        return
    who = await authenticate(request)
    if who is None:
        raise problems.NotAuthenticated
    if need != "token":
        who.require(need)  # type: ignore[arg-type]
    request.state.principal = who


async def _read_json(request: Request) -> Request:
    data = await read_body(request, MAX_BODY_BYTES, _BODY_S)
    if not data.strip():
        return JsonRequest(request, b"", None)
    try:
        return JsonRequest(request, data, strict_json.loads(data))
    except strict_json.NotJson as error:
        raise errors.invalid(str(error)) from error


async def read_body(request: Request, limit: int, deadline_s: float) -> bytes:
    """Return a body that is neither too large nor too slow.

    Raises:
        Failure: `TooLarge`, `deadline_exceeded`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:18]) > limit:
        raise problems.TooLarge(limit)
    data = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise problems.TooLarge(limit)
    except TimeoutError as error:
        raise errors.Failure("deadline_exceeded", "the body came too slowly") from error
    except ClientDisconnect as error:
        raise errors.invalid("the body ended early") from error
    return bytes(data)
