"""A deploy, from the loaded config to its end: image here, everything else on the platform.

    files put in → image → order → (another one runs: wait for it) → followed to its end

What the platform has begun it carries through by itself; see `follow`.
"""

from dataclasses import dataclass, field

from godwit.appconfig import files, later
from godwit.base import errors
from godwit.cli.rollout import compose, follow, inline, source
from godwit.cli.rollout.progress import Progress
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.deploys import Order
from godwit.client.records import Deploy, DeployPlan
from godwit.wire.deploys import Options


@dataclass(frozen=True)
class Request:
    """What a deploy was asked to do.

    Attributes:
        source: Where the image comes from.
        options: What the platform is told.
        detach: Whether to leave once it has begun.
        wait_lock_s: How long to wait for another deploy of the app; `None` for not at all.
        dns_checks: Whether to look in the end whether the app's name leads anywhere.
        flycast: Whether the app gets a private address before, unless it has one.
    """

    source: source.Source
    options: Options = field(default_factory=Options)
    detach: bool = False
    wait_lock_s: float | None = None
    dns_checks: bool = True
    flycast: bool = False


async def begin(
    here: Session,
    api: Api,
    loaded: files.Loaded,
    app: str,
    request: Request,
    progress: Progress,
) -> Deploy:
    """Obtain the image, begin the deploy and return it as it stands then.

    Raises:
        Failure: There is no image, or the platform refuses the deploy.
    """
    loaded, given = compose.applied(loaded, request.source, here.environ, progress)
    definition = inline.definition(loaded)
    # With the content of the files that it names.
    loaded = files.understand(loaded.path, definition)
    await api.apps.get(app)
    image = await source.obtain(api, app, loaded, given, progress)
    if request.flycast:
        await _ensure_private(api, app, progress)
    order = Order(definition, image, _described(request))
    deadline = here.clock.monotonic() + (request.wait_lock_s or 0.0)
    while True:
        try:
            return await api.deploys.begin(app, order)
        except errors.Failure as refused:
            if refused.code != "conflict" or request.wait_lock_s is None:
                raise
            other = await follow.running(api, app)
            if other is None or here.clock.monotonic() >= deadline:
                raise
            await _until_over(here, api, other, deadline, progress)


async def _ensure_private(api: Api, app: str, progress: Progress) -> None:
    if any(one.type == "private_v6" for one in await api.addresses.list(app)):
        return
    given = await api.addresses.allocate(app, "private_v6")
    progress.step(f"{app} answers in its network at {given.ip}, {app}.flycast")


def _described(request: Request) -> Options:
    """Return the options with the line that `godwit releases` shows."""
    if request.options.description:
        return request.options
    named = request.source.image
    told = f"deploy of {named.partition('@')[0]}" if named else "deploy"
    return request.options.model_copy(update={"description": told})


async def _until_over(
    here: Session, api: Api, other: Deploy, deadline: float, progress: Progress
) -> None:
    """Return once another deploy is over, or the time."""
    progress.step(f"Wait for release v{other.release.version}, deployed by {other.user}")
    after = 0
    while here.clock.monotonic() < deadline:
        left = int(deadline - here.clock.monotonic())
        found = await api.deploys.get(other.app, other.id, after=after, wait_s=max(1, left))
        after = max([after, *(event.number for event in found.events)])
        if found.status != follow.RUNNING:
            return
        progress.state(found.sentence or found.status)


async def plan(
    here: Session,
    api: Api,
    loaded: files.Loaded,
    app: str,
    request: Request,
    progress: Progress,
) -> DeployPlan:
    """Return what a deploy would do; builds only for an app that has no image yet.

    Raises:
        Failure: As `begin`.
    """
    loaded, given = compose.applied(loaded, request.source, here.environ, progress)
    definition = inline.definition(loaded)
    loaded = files.understand(loaded.path, definition)
    build = loaded.checked().build
    image = request.source.image or (build.image if build else None)
    if not image:
        present = await api.releases.list(app, limit=1)
        image = present[0].image if present else ""
    if not image:
        image = await source.obtain(api, app, loaded, given, progress)
    return await api.deploys.plan(app, Order(definition, image, request.options))


async def followed(here: Session, api: Api, deploy: Deploy, progress: Progress) -> Deploy:
    """Follow a deploy and return it once it is complete.

    Raises:
        Failure: It failed or was cancelled.
    """
    ended = await follow.to_its_end(here, api, deploy, progress)
    version, app = ended.release.version, ended.app
    if ended.status == "complete":
        return ended
    verb = "was cancelled" if ended.status == "cancelled" else "failed"
    error = ended.error or "nobody said why"
    hint = (
        f"see `godwit logs --app {app}` and `godwit releases show {version} --app {app}`, fix it "
        "and deploy again"
    )
    if ended.status == "cancelled":
        hint = f"`godwit status --app {app}` shows what runs now"
    raise errors.Failure("failed_precondition", f"release v{version} {verb}: {error}", hint=hint)


def told_beforehand(session: Session, loaded: files.Loaded) -> None:
    """Warn of what is doubtful in a config and of what has no effect yet."""
    config = loaded.checked()
    for one in [*loaded.warnings(), *later.without_effect(config)]:
        session.out.warn(one.told(loaded.name))
