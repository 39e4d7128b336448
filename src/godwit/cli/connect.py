"""Reaching the platform, and which app a command is about."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from godwit.appconfig import files
from godwit.base import errors, ids
from godwit.cli.session import Session
from godwit.cli.settings import CliSettings
from godwit.client.api import Api
from godwit.client.records import Machine, Org

T = TypeVar("T")


def call(
    session: Session, work: Callable[[Api], Awaitable[T]], *, at: CliSettings | None = None
) -> T:
    """Run some work with a connection to the API and return what it returns.

    Args:
        session: What the command has.
        work: What is done.
        at: Where, instead of where the session's settings point.

    Raises:
        Failure: `unauthenticated` when there is no token to connect with.
    """

    async def connected() -> T:
        async with api(session, at=at) as opened:
            return await work(opened)

    return asyncio.run(connected())


def api(session: Session, *, at: CliSettings | None = None) -> Api:
    """Return the API that the session's settings, or others, point at.

    Raises:
        Failure: `unauthenticated` when there is no token.
    """
    found = at or session.settings
    if not found.token:
        raise errors.Failure(
            "unauthenticated",
            "there is no access token",
            hint="`godwit up` on this host writes one; elsewhere `godwit auth login` keeps one, "
            "or set FLY_API_TOKEN",
        )
    return Api(found.api_url, found.token, http=session.http, pauses=session.clock)


def app_name(session: Session, app: str | None, config: str | None = None) -> str:
    """Return the app a command is about: the flag, FLY_APP, or what the config file says.

    Raises:
        Failure: None of them says.
    """
    named = app or session.environ.get("FLY_APP")
    if not named:
        path = files.find(session.directory, config)
        named = files.app_name(path) if path is not None else None
    if not named:
        raise errors.invalid(
            "which app?",
            hint="pass --app NAME, set FLY_APP, or go to a directory with a fly.toml",
        )
    if not ids.is_app_name(named):
        raise errors.invalid(
            f'"{named}" cannot be the name of an app',
            hint="names have lower-case letters, digits and -, at most 63 of them",
        )
    return named


async def organization(session: Session, opened: Api, org: str | None) -> str:
    """Return the organization a command is about: the flag, FLY_ORG, or the only one.

    Raises:
        Failure: There are several and nobody to ask, or none.
    """
    named = org or session.environ.get("FLY_ORG") or session.environ.get("FLY_ORGANIZATION")
    if named:
        return named
    slugs = [one.slug for one in await opened.orgs.list()]
    if not slugs:
        raise errors.not_found(
            "this token is for no organization", hint="make one with `godwit orgs create NAME`"
        )
    return session.choose("Which organization?", slugs, flag="--org")


def preferred(orgs: list[Org]) -> str | None:
    """Return the organization that is meant when nobody says: `personal`, else the first."""
    slugs = [one.slug for one in orgs]
    return "personal" if "personal" in slugs else next(iter(slugs), None)


async def machine(opened: Api, app: str, named: str) -> Machine:
    """Return a machine by its id or name.

    Raises:
        Failure: `not_found`.
    """
    (found,) = await machines(opened, app, [named])
    return found


async def machines(opened: Api, app: str, named: Sequence[str]) -> list[Machine]:
    """Return machines by their ids or names, in that order; names are looked up at once.

    Raises:
        Failure: `not_found`.
    """
    by_name: dict[str, Machine] = {}
    if not all(ids.is_machine_id(one) for one in named):
        by_name = {one.name: one for one in await opened.machines.list(app)}
    found = []
    for one in named:
        if ids.is_machine_id(one):
            found.append(await opened.machines.get(app, one))
        elif one in by_name:
            found.append(by_name[one])
        else:
            raise errors.not_found(
                f'app "{app}" has no machine "{one}"',
                hint=f"list them with `godwit machine list --app {app}`",
            )
    return found


async def choose_machine(
    session: Session, opened: Api, app: str, *, running: bool, hint: str
) -> str:
    """Return the id of one of an app's machines that may have to run, asking about several.

    Raises:
        Failure: There is none, or nobody to choose.
    """
    found = [
        one.id for one in await opened.machines.list(app) if not running or one.state == "started"
    ]
    if not found:
        said = f"no machine of {app} runs" if running else f"{app} has no machine"
        raise errors.Failure("failed_precondition", said, hint=hint)
    return session.choose("Which machine?", sorted(found), flag="--machine")


def machines_of(session: Session, app: str) -> list[Machine]:
    """Return an app's machines, by group and id.

    Raises:
        Failure: `not_found` when there is no such app.
    """

    async def work(opened: Api) -> list[Machine]:
        await opened.apps.get(app)
        return await opened.machines.list(app)

    return sorted(call(session, work), key=lambda one: (one.group(), one.id))
