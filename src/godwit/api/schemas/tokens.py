"""API tokens."""

import base64
from typing import Annotated

from pydantic import BeforeValidator, Field

from godwit.api.schemas.common import In, Json, Out, ShortText
from godwit.base import clock
from godwit.control import config_fields, token_checks, tokens

_LONGEST_MS = 175_200 * 3600 * 1000

Lifetime = Annotated[
    int,
    BeforeValidator(config_fields.duration_ms),
    Field(ge=1000, le=_LONGEST_MS, json_schema_extra={"type": "string"}),
]


class CreateToken(In):
    """A new token. `expiry` is a Go duration; what is left out is as the maker's own."""

    name: ShortText = "unnamed"
    org_slug: ShortText | None = None
    app_name: ShortText | None = None
    scopes: list[ShortText] | None = Field(None, max_length=100)
    expiry: Lifetime | None = None

    def wanted(self) -> tokens.NewToken:
        """Return what the service is asked."""
        return tokens.NewToken(
            name=self.name,
            org_slug=self.org_slug,
            app_name=self.app_name,
            scopes=None if self.scopes is None else tuple(self.scopes),
            lifetime_s=None if self.expiry is None else self.expiry // 1000,
        )


class CreateDeployToken(In):
    """A token for an app; `expiry` is a Go duration, without one it lasts as its maker's."""

    expiry: Lifetime | None = None


class DeployToken(Out):
    """The secret of a new token, which is shown this once."""

    token: str


class Token(Out):
    """A token without its secret; `org_slug` only when it is for one organization.

    `apps` are those that it is for, when it is not for all.
    """

    id: str
    name: str
    org_slug: str | None
    org_slugs: list[str]
    apps: list[str]
    everywhere: bool
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    @classmethod
    def of(cls, found: tokens.TokenWithSlugs) -> "Token":
        """Return a token as the API shows it."""
        return cls(**_fields(found))


class NewToken(Token):
    """A token just made, with its secret, which is shown this once."""

    token: str

    @classmethod
    def made(cls, found: tokens.TokenWithSlugs, secret: str) -> "NewToken":
        """Return a new token as the API shows it."""
        return cls(**_fields(found), token=secret)


class TokenList(Out):
    """Tokens by age."""

    tokens: list[Token]


class CurrentToken(Out):
    """The token that asks."""

    token_id: str
    user: str
    organization: str
    org_slug: str
    apps: list[str] = []
    restricted_to_machine: str = ""
    source_machine_id: str = ""


class CurrentTokens(Out):
    """The tokens that ask: one."""

    tokens: list[CurrentToken]


class RegistryToken(Out):
    """A token for the platform's registry, under both names clients look for."""

    token: str
    access_token: str
    expires_in: int
    issued_at: str


def _fields(found: tokens.TokenWithSlugs) -> dict[str, object]:
    token = found.token
    return {
        "id": token.id,
        "name": token.name,
        "org_slug": found.slugs[0] if len(found.slugs) == 1 else None,
        "org_slugs": list(found.slugs),
        "apps": list(found.apps),
        "everywhere": token.org_ids is None,
        "scopes": list(token.scopes),
        "created_at": clock.rfc3339(token.created_at_ms),
        "expires_at": _time(token.expires_at_ms),
        "revoked_at": _time(token.revoked_at_ms),
    }


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else clock.rfc3339(at_ms)


class AskOidcToken(In):
    """For whom a machine wants a token, and whether AWS is to make session tags of it."""

    aud: Annotated[str, Field(max_length=1_000)] = ""
    aws_principal_tags: bool = False


class Authenticate(In):
    """Tokens as they stand in an `Authorization` header."""

    header: Annotated[str, Field(max_length=16_384, repr=False)]


class AccessAsked(In):
    """What somebody is about to do; `mutation` and `source_machine` limit no token here."""

    action: Annotated[str, Field(max_length=16)]
    org_slug: ShortText | None = None
    app_name: ShortText | None = None
    machine_id: ShortText | None = None
    volume_id: ShortText | None = None
    app_feature: ShortText | None = None
    machine_feature: ShortText | None = None
    org_feature: ShortText | None = None
    command: list[str] | None = Field(None, max_length=1_000)
    mutation: ShortText | None = None
    source_machine: ShortText | None = None
    storage_object: ShortText | None = None


class Authorize(In):
    """Tokens, and what they are to allow."""

    header: Annotated[str, Field(max_length=16_384, repr=False)]
    access: AccessAsked

    def wanted(self) -> token_checks.Access:
        """Return what the service is asked."""
        asked = self.access
        return token_checks.Access(
            action=asked.action,
            org_slug=asked.org_slug,
            app_name=asked.app_name,
            machine_id=asked.machine_id,
            volume_id=asked.volume_id,
            app_feature=asked.app_feature,
            machine_feature=asked.machine_feature,
            org_feature=asked.org_feature,
            command=tuple(asked.command or ()),
            storage_object=asked.storage_object,
        )


class CaveatShown(Out):
    """What limits a token."""

    type: str
    body: Json


class Nonce(Out):
    """What names a token."""

    kid: str
    rnd: str = ""
    proof: bool = False


class VerifiedToken(Out):
    """A token that is good; `permission_token` is itself, base64."""

    caveats: list[CaveatShown]
    header: str
    nonce: Nonce
    permission_token: str

    @classmethod
    def of(cls, found: token_checks.Verified) -> "VerifiedToken":
        """Return a token as the API shows it to who has it."""
        return cls(
            caveats=[CaveatShown(type=one.type, body=one.body) for one in found.caveats],
            header=f"Bearer {found.secret}",
            nonce=Nonce(kid=found.token_id),
            permission_token=base64.b64encode(found.secret.encode()).decode(),
        )


class AccessAllowed(Out):
    """The access that was asked for, as far as it names what this platform has."""

    action: str
    app_feature: str | None = None
    feature: str | None = None
    machine: str | None = None
    machine_feature: str | None = None
    command: list[str] | None = None


class Authorized(Out):
    """What is allowed, and the token that allows it."""

    access: AccessAllowed
    verified_token: VerifiedToken

    @classmethod
    def of(cls, asked: AccessAsked, found: token_checks.Verified) -> "Authorized":
        """Return the answer to who asked."""
        access = AccessAllowed(
            action=asked.action,
            app_feature=asked.app_feature,
            feature=asked.org_feature,
            machine=asked.machine_id,
            machine_feature=asked.machine_feature,
            command=asked.command,
        )
        return cls(access=access, verified_token=VerifiedToken.of(found))


class JsonWebKeys(Out):
    """The public keys of an issuer (RFC 7517)."""

    keys: list[dict[str, str]]
