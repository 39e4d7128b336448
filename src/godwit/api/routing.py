"""Routes that say what they need: guarded by it before anything of the request is read.

Order for every request: routed (else 404) → token → scope → rate → body (bounded, strict JSON) →
the route. A route's own function then calls one service function, which checks again, per
organization.
"""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from godwit.api import limits, problems, strict_json
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
_LONGEST_NAME = 100
_NEED = "x-godwit-scope"
_OWN = "x-godwit-own"
_FILTER = b"metadata."
_REQUEST = "request"
VOUCHED_FOR = "godwit.principal"
"""Where an ASGI scope holds the machine that asks at its `/.fly/api` (`guest_requests`)."""


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

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _handed_over(endpoint), **options)

    @property
    def need(self) -> Need:
        """Return what it declares."""
        declared: Need = (self.openapi_extra or {})[_NEED]
        return declared

    @property
    def own(self) -> bool:
        """Tell whether a machine may ask this about itself without a token."""
        return bool((self.openapi_extra or {}).get(_OWN))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with the guard around it."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        method = next(iter(self.methods or ()))
        rate = limits.rate(method, self.path_format)

        async def guarded(request: Request) -> Response:
            await _authorize(request, self.need, own=self.own)
            if rate is not None:
                _count(request, f"{method} {self.path_format}", rate)
            request = _without_empty_values(request)
            if takes_body:
                request = await _read_json(request)
            return await handle(request)

        return guarded


def needs(need: Need, *, own: bool = False, **extra: Any) -> dict[str, Any]:
    """Return the declaration for a route: `@router.get(…, openapi_extra=needs("apps:read"))`.

    Args:
        need: The scope, or what else.
        own: A machine may ask this about itself without a token, at its `/.fly/api`.
        extra: More of the route's OpenAPI.
    """
    security: list[dict[str, list[str]]] = []
    if need == "basic":
        security = [{"registry": []}]
    elif need != "public":
        security = [{"token": []}]
    return {_NEED: need, **({_OWN: True} if own else {}), "security": security, **extra}


def router(tag: str) -> APIRouter:
    """Return a router for one resource's routes."""
    return APIRouter(route_class=Route, tags=[tag])


async def authenticate(request: Request) -> Principal | None:
    """Return who asks by `Authorization: Bearer …` or `FlyV1 …,…`; else whose host says so."""
    if "authorization" not in request.headers:
        vouched_for: Principal | None = request.scope.get(VOUCHED_FOR)
        return vouched_for
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


Ctx = Annotated[Context, context]
Who = Annotated[Principal, _principal]
_GIVEN: Mapping[Any, Callable[[Request], Any]] = {Ctx: context, Who: _principal}
Nonce = Annotated[str | None, Header(alias="fly-machine-lease-nonce", max_length=200)]
"""What proves that the caller holds the machine's lease."""


def _handed_over(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a route's function that is given its `Ctx` and `Who` from the request.

    As dependencies they would be solved anew in every request, which costs FastAPI as much as to
    read the route's own parameters.
    """
    signature = inspect.signature(endpoint, eval_str=True)
    kinds = {name: one.annotation for name, one in signature.parameters.items()}
    given = {name: _GIVEN[kind] for name, kind in kinds.items() if kind in _GIVEN}
    own = next((name for name, kind in kinds.items() if kind is Request), "")

    @functools.wraps(endpoint)
    async def called(**values: Any) -> Any:
        request = values[own] if own else values.pop(_REQUEST)
        return await endpoint(**values, **{name: give(request) for name, give in given.items()})

    kept = [one for name, one in signature.parameters.items() if name not in given]
    if not own:
        kept.append(
            inspect.Parameter(_REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request)
        )
    called.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return called


async def _authorize(request: Request, need: Need, *, own: bool) -> None:
    if need in ("public", "basic"):
        return
    who = await authenticate(request)
    if who is None:
        raise problems.NotAuthenticated
    if who.machine_id is not None and not own:
        raise errors.Failure(
            "permission_denied",
            "a machine may not ask this without a token",
            hint="send a token as `Authorization: Bearer …`",
        )
    if need != "token":
        about = request.path_params.get("machine_id")
        who.require(need, machine_id=about)  # type: ignore[arg-type]
    request.state.principal = who


def _count(request: Request, action: str, rate: limits.Rate) -> None:
    """Refuse what is asked too often of one thing.

    Raises:
        TooMany: It is.
    """
    counted: limits.Limits | None = request.app.state.limits
    if counted is None:
        return
    who = _principal(request)
    about = request.path_params.get("machine_id") or request.path_params.get("app_name")
    if rate is limits.DELETION:
        about = who.subject
    # A machine that asks too often about itself stands in nobody else's way.
    whose = who.org_ids if who.machine_id is None else who.subject
    counted.take((action, whose, str(about)[:_LONGEST_NAME]), rate)


def _without_empty_values(request: Request) -> Request:
    """Leave out of the query what has no value: to the public API's clients that is unset.

    A filter by metadata may be for an empty value.
    """
    query: bytes = request.scope["query_string"]
    if not query:
        return request
    said = [
        part for part in query.split(b"&") if part.partition(b"=")[2] or part.startswith(_FILTER)
    ]
    return Request({**request.scope, "query_string": b"&".join(said)}, request.receive)


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
