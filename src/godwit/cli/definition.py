"""The config that the platform has of an app: the definition of a release."""

from godwit.base import errors
from godwit.client.api import Api
from godwit.client.records import Release


async def released(api: Api, app: str) -> Release:
    """Return the release whose definition counts: the newest complete one, else the newest.

    Raises:
        Failure: `not_found` when the app was never deployed with a definition.
    """
    found = await latest(api, app)
    if found is None:
        raise errors.not_found(
            f"{app} was never deployed, so the platform has no config of it",
            hint="`godwit deploy` sends one; `godwit config show --local` shows the file's",
        )
    return found


async def latest(api: Api, app: str) -> Release | None:
    """Return the same, or `None`."""
    known = [one for one in await api.releases.list(app) if one.config]
    complete = (one for one in known if one.status == "complete")
    return next(complete, next(iter(known), None))
