"""How deploys are told to people and programs once they have begun or ended."""

from typing import Any

from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.cli import tables
from godwit.cli.rollout import follow
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Deploy


def address(here: Session, app: str, config: Config, *, flycast: bool = False) -> str | None:
    """Return where an app answers: in its network when it was to have an address there."""
    if not (config.http_service or config.services):
        return None
    return f"http://{app}.flycast/" if flycast else here.settings.app_url(app)


async def ended(
    here: Session, api: Api, deploy: Deploy, *, address: str | None, as_json: bool
) -> None:
    """Tell how a deploy stands, and where its app answers.

    Args:
        here: The session.
        api: Asked for the machines.
        deploy: As it ended, or as it began when nobody stays to see the end.
        address: Where the app answers; `None` if it has no services.
        as_json: Whether a program reads it.
    """
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
