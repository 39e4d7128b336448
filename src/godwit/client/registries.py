"""Credentials for external registries: `/x/v1/registries`."""

from urllib.parse import quote

from godwit.client.records import Answer
from godwit.client.transport import Transport

_CHECK_S = 90.0
"""The API asks the registry before it answers."""


class Registry(Answer):
    """A registry that an organization has credentials for."""

    registry: str
    username: str = ""
    created_at: str | None = None
    updated_at: str | None = None


class Registries:
    """Registries."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, org_slug: str) -> list[Registry]:
        """Return the registries an organization has credentials for."""
        answer = await self._transport.get("/x/v1/registries", query={"org_slug": org_slug})
        return [Registry.model_validate(one) for one in answer.get("registries") or []]

    async def login(
        self, registry: str, *, org_slug: str, username: str, password: str, unchecked: bool
    ) -> Registry:
        """Keep credentials.

        Raises:
            Failure: `permission_denied` when the registry refuses them.
        """
        body = {
            "org_slug": org_slug,
            "username": username,
            "password": password,
            "unchecked": unchecked,
        }
        answer = await self._transport.call("PUT", _path(registry), body=body, timeout_s=_CHECK_S)
        return Registry.model_validate(answer)

    async def logout(self, registry: str, *, org_slug: str) -> None:
        """Forget credentials.

        Raises:
            Failure: `not_found`.
        """
        await self._transport.call("DELETE", _path(registry), query={"org_slug": org_slug})


def _path(registry: str) -> str:
    return f"/x/v1/registries/{quote(registry, safe='')}"
