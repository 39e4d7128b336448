"""The API described: OpenAPI, and whether it answers at all."""

from typing import Any

from fastapi import Request

from godwit.api.routing import Ctx, needs, router
from godwit.api.schemas.common import ERRORS, Done

ROUTER = router("Documents")


@ROUTER.get(
    "/openapi.json",
    operation_id="Godwit_openapi",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def show_openapi(request: Request) -> dict[str, Any]:
    """Show this document."""
    document: dict[str, Any] = request.app.openapi()
    return document


@ROUTER.get(
    "/v1/openapi.json",
    operation_id="Godwit_openapi_v1",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def show_openapi_v1(request: Request) -> dict[str, Any]:
    """Show this document."""
    return await show_openapi(request)


@ROUTER.get(
    "/x/v1/health",
    operation_id="Godwit_health",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def show_health(ctx: Ctx) -> Done:
    """Answer when the API and its database do."""
    async with ctx.store.read() as rows:
        await rows.meta.get()
    return Done()
