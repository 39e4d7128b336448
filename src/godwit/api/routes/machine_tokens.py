"""Tokens that machines get, where others find the keys of these, and checks of any token."""

from fastapi.responses import PlainTextResponse

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS, Json
from godwit.api.schemas.tokens import (
    AskOidcToken,
    Authenticate,
    Authorize,
    Authorized,
    JsonWebKeys,
    VerifiedToken,
)
from godwit.control import machine_tokens, token_checks

ROUTER = router("Tokens")


@ROUTER.post(
    "/v1/tokens/oidc",
    operation_id="Tokens_request_OIDC",
    openapi_extra=needs("token", own=True),
    responses=ERRORS,
    response_class=PlainTextResponse,
)
async def oidc_token(ctx: Ctx, who: Who, body: AskOidcToken | None = None) -> PlainTextResponse:
    """Give a machine a token that tells others which machine it is: a JWT, for ten minutes."""
    asked = AskOidcToken() if body is None else body
    wanted = machine_tokens.Wanted(asked.aud, asked.aws_principal_tags)
    return PlainTextResponse(await machine_tokens.oidc(ctx, who, wanted))


@ROUTER.post(
    "/v1/tokens/kms",
    operation_id="Tokens_request_Kms",
    openapi_extra=needs("token", own=True),
    responses=ERRORS,
    response_class=PlainTextResponse,
)
async def kms_token(ctx: Ctx, who: Who) -> PlainTextResponse:
    """Give a machine a token that may use its app's secret keys, for an hour."""
    return PlainTextResponse(await machine_tokens.kms(ctx, who))


@ROUTER.post(
    "/v1/tokens/authenticate",
    operation_id="Tokens_authenticate",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def authenticate(ctx: Ctx, body: Authenticate) -> list[VerifiedToken]:
    """Tell which tokens of an `Authorization` header are good, and what limits them."""
    found = await token_checks.authenticate(ctx, body.header)
    return [VerifiedToken.of(one) for one in found]


@ROUTER.post(
    "/v1/tokens/authorize",
    operation_id="Tokens_authorize",
    openapi_extra=needs("public"),
    responses=ERRORS,
    response_model_exclude_none=True,
)
async def authorize(ctx: Ctx, body: Authorize) -> Authorized:
    """Tell by 200 that one of some tokens allows an access; 400 when none does."""
    found = await token_checks.authorize(ctx, body.header, body.wanted())
    return Authorized.of(body.access, found)


@ROUTER.get(
    "/oidc/{org_slug}/.well-known/openid-configuration",
    operation_id="Oidc_configuration",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def configuration(ctx: Ctx, org_slug: str) -> Json:
    """Describe an organization as an issuer of OIDC tokens."""
    return await machine_tokens.discovery(ctx, org_slug)


@ROUTER.get(
    "/oidc/{org_slug}/.well-known/jwks",
    operation_id="Oidc_keys",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def public_keys(ctx: Ctx, org_slug: str) -> JsonWebKeys:
    """Give the keys that an organization's OIDC tokens are signed with."""
    return JsonWebKeys(keys=await machine_tokens.public_keys(ctx, org_slug))
