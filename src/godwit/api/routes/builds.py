"""`POST /x/v1/apps/{app}/builds`: a tar goes up, a line of JSON per event comes back."""

import asyncio
import base64
import contextlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from godwit.api import problems, strict_json
from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import builds
from godwit.control.context import Context
from godwit.control.records import App

logger = logging.getLogger(__name__)

ROUTER = router("Builds")

_UPLOAD_S = 900.0
_PIECE = 1 << 20
_TAR = {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}


@ROUTER.post(
    "/x/v1/apps/{app_name}/builds",
    operation_id="Godwit_create_build",
    openapi_extra=needs("builds:write", requestBody={**_TAR, "required": True}),
    responses={
        **ERRORS,
        200: {
            "description": "Events: log, notice, image (the last) or error (the last).",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
    },
    response_class=StreamingResponse,
)
async def create_build(
    ctx: Ctx,
    who: Who,
    request: Request,
    app_name: str,
    *,
    dockerfile: Annotated[str, Query(max_length=500)] = "Dockerfile",
    target: Annotated[str, Query(max_length=200)] = "",
    args: Annotated[str, Query(max_length=32_768)] = "",
    label: Annotated[str, Query(max_length=128)] = "",
    labels: Annotated[str, Query(max_length=32_768)] = "",
    secrets: Annotated[str, Header(alias="Godwit-Build-Secrets", max_length=49_152)] = "",
    no_cache: bool = False,
    offline: bool = False,
    force: bool = False,
) -> StreamingResponse:
    """Build an image from a context (a tar) and push it.

    `args` and `labels` are JSON objects of strings; so is `Godwit-Build-Secrets`, in base64: a
    header, because addresses are written into logs.
    """
    wanted = builds.Wanted(
        dockerfile=dockerfile or "Dockerfile",
        target=target,
        args=_strings("args", args),
        label=label,
        labels=_strings("labels", labels),
        secrets=_strings("Godwit-Build-Secrets", _decoded(secrets)),
        no_cache=no_cache,
        offline=offline,
        force=force,
    )
    app = await builds.admit(ctx, who, app_name, wanted)
    context = await _upload(request, ctx)
    return StreamingResponse(
        _events(ctx, who, app, wanted, context), media_type="application/x-ndjson"
    )


def _strings(name: str, text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        found = strict_json.loads(text.encode("utf-8", "surrogatepass"))
    except strict_json.NotJson as error:
        raise errors.invalid(f"{name}: must be a JSON object of strings") from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise errors.invalid(f"{name}: must be a JSON object of strings")
    return found


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError as error:
        raise errors.invalid("Godwit-Build-Secrets: must be base64 of JSON") from error


async def _upload(request: Request, ctx: Context) -> Path:
    """Return the file a context was put into.

    Raises:
        Failure: It is too large, too slow or incomplete; nothing is left of it.
    """
    limit = ctx.options.upload_bytes
    path = await asyncio.to_thread(_new_file, ctx.options.uploads)
    try:
        async with asyncio.timeout(_UPLOAD_S):
            await _copy(request, path, limit)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise errors.Failure("deadline_exceeded", "the context came too slowly") from error
        if isinstance(error, ClientDisconnect):
            raise errors.invalid("the context ended early") from error
        if isinstance(error, OSError):
            raise errors.Failure(
                "insufficient_capacity", f"the context cannot be kept: {error.strerror}"
            ) from error
        raise
    return path


def _new_file(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".tar", delete=False) as file:
        return Path(file.name)


async def _copy(request: Request, path: Path, limit: int) -> None:
    pieces = bytearray()
    total = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            total += len(chunk)
            if total > limit:
                raise problems.TooLarge(limit)
            pieces += chunk
            if len(pieces) >= _PIECE:
                await asyncio.to_thread(file.write, bytes(pieces))
                pieces.clear()
        await asyncio.to_thread(file.write, bytes(pieces))
    if not total:
        raise errors.invalid("the body: a tar of the build context is required")


async def _events(
    ctx: Context, who: Principal, app: App, wanted: builds.Wanted, context: Path
) -> AsyncIterator[bytes]:
    try:
        running = builds.run(ctx, who, app, wanted, context)
        async with contextlib.aclosing(running) as events:
            async for event in events:
                yield _line(event)
    except errors.Failure as failure:
        yield _line(
            {
                "type": "error",
                "code": failure.code,
                "message": failure.message,
                "hint": failure.hint,
            }
        )
    except Exception:
        # The answer has begun: a bug can only be told as its last line.
        logger.exception("a build of app %s failed", app.name)
        yield _line({"type": "error", "code": "internal", "message": "the builder failed"})
    finally:
        # Not awaited: when the client has left, every await here is cancelled.
        _forget(context)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
