"""API tokens: `/x/v1/tokens`, and who one is: `/v1/tokens/current`."""

from collections.abc import Sequence
from typing import Any

from godwit.client.records import NewToken, Token
from godwit.client.transport import Transport


class Tokens:
    """Tokens."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def current(self) -> list[dict[str, Any]]:
        """Return what the API says of the token that asks."""
        answer = await self._transport.get("/v1/tokens/current")
        return list(answer.get("tokens") or [])

    async def list(self, org_slug: str | None = None) -> list[Token]:
        """Return tokens, without their secrets."""
        answer = await self._transport.get("/x/v1/tokens", query={"org_slug": org_slug})
        return [Token.model_validate(one) for one in answer.get("tokens") or []]

    async def create(
        self,
        name: str,
        *,
        org_slug: str | None,
        scopes: Sequence[str],
        expiry: str | None,
        app_name: str | None = None,
    ) -> NewToken:
        """Make a token; its secret is in the answer and nowhere else.

        Args:
            name: For people.
            org_slug: The one organization it is for; `None` for all of the maker's.
            scopes: What it may do; empty for all the maker may do.
            expiry: A Go duration; `None` for no end.
            app_name: The one app it is for; `None` for all.
        """
        body: dict[str, Any] = {"name": name}
        if org_slug:
            body["org_slug"] = org_slug
        if app_name:
            body["app_name"] = app_name
        if scopes:
            body["scopes"] = list(scopes)
        if expiry:
            body["expiry"] = expiry
        answer = await self._transport.call("POST", "/x/v1/tokens", body=body)
        return NewToken.model_validate(answer)

    async def revoke(self, token_id: str) -> None:
        """Make a token worthless."""
        await self._transport.call("DELETE", f"/x/v1/tokens/{token_id}")
