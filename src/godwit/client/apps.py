"""Apps: `/v1/apps`."""

from godwit.base import errors
from godwit.client import failures
from godwit.client.records import App
from godwit.client.transport import Transport

_PAGE = 500
_MOST_PAGES = 100


class Apps:
    """Apps of the organizations a token is for."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, app: str) -> App:
        """Return an app.

        Raises:
            Failure: `not_found` when it does not exist or is not visible to the token.
        """
        try:
            return App.model_validate(await self._transport.get(f"/v1/apps/{app}"))
        except failures.ApiFailure as error:
            if error.code == "not_found":
                raise missing(app) from error
            raise

    async def list(self, org_slug: str) -> list[App]:
        """Return every app of an organization."""
        found: list[App] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._transport.get(
                "/v1/apps", query={"org_slug": org_slug, "limit": _PAGE, "cursor": cursor}
            )
            found += [App.model_validate(one) for one in page.get("apps") or []]
            cursor = page.get("next_cursor")
            if not cursor:
                break
        return found

    async def create(self, name: str, org_slug: str, *, network: str = "") -> App:
        """Create an app.

        Raises:
            Failure: `already_exists` when the name is taken.
        """
        body = {"name": name, "org_slug": org_slug}
        if network:
            body["network"] = network
        answer = await self._transport.call("POST", "/v1/apps", body=body)
        return App.model_validate({"name": name, **(answer or {})})

    async def delete(self, app: str) -> None:
        """Delete an app and all its machines."""
        try:
            await self._transport.call("DELETE", f"/v1/apps/{app}", query={"force": True})
        except failures.ApiFailure as error:
            if error.code == "not_found":
                raise missing(app) from error
            raise


def missing(app: str) -> errors.Failure:
    """Return the failure for an app that is not there."""
    return errors.not_found(
        f'there is no app "{app}" that this token may see',
        hint=f"list yours with `godwit apps list`, or make it with `godwit apps create {app}`",
    )
