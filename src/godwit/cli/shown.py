"""How deploys are told to people and programs once they have begun or ended."""

from typing import Any

from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli import tables
from godwit.cli.rollout import follow
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Deploy


async def ended(
    here: Session, api: Api, deploy: Deploy, *, config: Config | None = None, as_json: bool
) -> None:
    """Tell how a deploy stands, and where its app answers.

    Args:
        here: The session.
        api: Asked for the machines.
        deploy: As it ended, or as it began when nobody stays to see the end.
        config: Tells whether the app has an address; without one it is taken to have one.
        as_json: Whether a program reads it.
    """
    public = config is None or bool(config.http_service or config.services)
    address = here.settings.app_url(deploy.app) if public else None
    if as_json:
        here.out.json(await _record(api, deploy, address))
        return
    version, app = deploy.release.version, deploy.app
    if deploy.status == follow.RUNNING:
        here.out.data(deploy.id)
        here.out.say(f"Release v{version} of {app} is being deployed")
        here.out.hint(f"follow it with `godwit deploy --follow --app {app}`")
        return
    if deploy.status != "complete":
        here.out.say(f"Release v{version} of {app}: {deploy.status}, {deploy.error or ''}")
        return
    here.out.say(f"Release v{version} of {app} is deployed")
    if address:
        here.out.data(address)
    else:
        here.out.hint(
            f"{app} has no services: other apps of its network reach it as {app}.internal"
        )


async def _record(api: Api, deploy: Deploy, address: str | None) -> dict[str, Any]:
    version = deploy.release.version
    try:
        machines = await api.machines.list(deploy.app)
    except errors.Failure:
        machines = []
    return {
        "app": deploy.app,
        "deploy": deploy.id,
        "status": deploy.status,
        "error": deploy.error or "",
        "image": deploy.release.image,
        "release": version,
        "release_id": deploy.release.id,
        "machines": [one.id for one in machines if tables.release_of(one) == version],
        "url": address,
    }
