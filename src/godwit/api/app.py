"""The API as one ASGI application, put together once by `godwit.cmd.control`."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import godwit
from godwit.api import limits, problems
from godwit.api.guard import Guard
from godwit.api.routes import (
    addresses,
    apps,
    builds,
    deploys,
    documents,
    host_images,
    hosts,
    inside,
    kms,
    leases,
    logs,
    machine_actions,
    machine_tokens,
    machines,
    metadata,
    moves,
    network_policies,
    org_machines,
    orgs,
    platform,
    registries,
    registry_events,
    releases,
    secrets,
    terminals,
    tokens,
)
from godwit.base import errors
from godwit.control.context import Context

ROUTERS: tuple[APIRouter, ...] = (
    apps.ROUTER,
    addresses.ROUTER,
    network_policies.ROUTER,
    machines.ROUTER,
    machine_actions.ROUTER,
    inside.ROUTER,
    terminals.ROUTER,
    leases.ROUTER,
    metadata.ROUTER,
    moves.ROUTER,
    org_machines.ROUTER,
    platform.ROUTER,
    hosts.ROUTER,
    host_images.ROUTER,
    logs.ROUTER,
    orgs.ROUTER,
    registries.ROUTER,
    registry_events.ROUTER,
    releases.ROUTER,
    deploys.ROUTER,
    secrets.ROUTER,
    kms.ROUTER,
    builds.ROUTER,
    tokens.ROUTER,
    machine_tokens.ROUTER,
    documents.ROUTER,
)
_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "`godwit_…`; `FlyV1` too."},
    "registry": {"type": "http", "scheme": "basic", "description": "An API token as password."},
}


class Api(FastAPI):
    """FastAPI whose document names the ways to authenticate."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if not self.openapi_schema:
            document = super().openapi()
            document.setdefault("components", {})["securitySchemes"] = _SECURITY
            self.openapi_schema = document
        return self.openapi_schema


def create(ctx: Context) -> FastAPI:
    """Return the API over control's ports."""
    api = Api(
        title="Godwit",
        version=godwit.__version__,
        summary="The Machines API, and what Godwit adds under /x/v1.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.ctx = ctx
    api.state.limits = limits.Limits(ctx.clock) if ctx.options.rate_limits else None
    for one in ROUTERS:
        api.include_router(one)
    api.add_exception_handler(errors.Failure, problems.on_failure)
    api.add_exception_handler(RequestValidationError, problems.on_invalid)
    api.add_exception_handler(HTTPException, problems.on_unrouted)
    api.add_middleware(Guard, region=ctx.options.region)
    return api
