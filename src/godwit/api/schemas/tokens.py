"""API tokens."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from godwit.api.schemas.common import In, Out, ShortText
from godwit.base import clock
from godwit.control import config_fields, tokens

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
