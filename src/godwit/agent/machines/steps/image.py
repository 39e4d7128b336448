"""Steps that bring the image to this host."""

from collections.abc import Mapping
from typing import Any

from godwit.agent import ports
from godwit.agent.machines.work import Work
from godwit.base import errors
from godwit.durable.runner import Step
from godwit.images import auth
from godwit.wire import host_rpc

_PULL_S = 1_860.0
"""Longer than the image store gives itself."""
_PATIENCE_S = 300.0
_STUCK_S = 300.0
"""Pulling goes on past this; people are told."""


async def _ensure(
    work: Work, image: host_rpc.ImageRef, token: str | None
) -> tuple[ports.LocalImage, str | None]:
    """Return the image, and the token that opened its registry.

    Pull tokens end after a day, and an image may have to be pulled again after that: what a
    registry does not show is asked for once more with a token that control gives out now.
    """
    try:
        return await work.host.images.ensure(image, token), token
    except errors.Failure as failure:
        # A registry may also give more to those it knows.
        if failure.code not in ("manifest_unknown", "rate_limited"):
            raise
        fresh = await _fresh_token(work, image, failure)
    return await work.host.images.ensure(image, fresh), fresh


async def _fresh_token(
    work: Work, image: host_rpc.ImageRef, refused: errors.Failure
) -> str | None:
    machine_id = work.machine.machine_id
    try:
        return await work.host.control.pull_token(machine_id, image.reference)
    except errors.Failure as failure:
        if failure.code not in ("unavailable", "deadline_exceeded"):
            raise refused from failure
        raise errors.Failure(
            failure.code,
            f"{refused.message}; a fresh token cannot be had now: {failure.message}",
        ) from failure


async def fetch_image(work: Work, _: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ensure the machine's images are here, pulled and converted once per digest."""
    machine = work.machine
    local, token = await _ensure(work, machine.image, machine.pull_token)
    # A user name and password is for this pull alone: nothing of it is kept.
    kept = None if auth.is_login(token) else token
    if kept != machine.pull_token:
        await work.store(work.machine.model_copy(update={"pull_token": kept}))
    here = {machine.image.digest: local}
    contained = await _of_containers(work, machine.container_images, here)
    return {**_told(local), "containers": [_told(one) for one in contained]}


async def _of_containers(
    work: Work, images: tuple[host_rpc.ImageRef, ...], here: dict[str, ports.LocalImage]
) -> tuple[ports.LocalImage, ...]:
    """Return the images of containers, each pulled once however many run it.

    Args:
        work: The machine's.
        images: By the containers' place in the config.
        here: Those that were ensured before, by digest.
    """
    for image in images:
        if image.digest not in here:
            here[image.digest], _token = await _ensure(work, image, None)
    return tuple(here[image.digest] for image in images)


def _told(local: ports.LocalImage) -> dict[str, Any]:
    return {
        "digest": local.digest,
        "path": str(local.path),
        "size_bytes": local.size_bytes,
        "config": local.config.model_dump(mode="json"),
    }


async def fetch_new_image(work: Work, _: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ensure the images of the version to come are here, before anything is stopped for it."""
    update = host_rpc.Update.model_validate(work.input["update"])
    local, _token = await _ensure(work, update.image, update.pull_token)
    await _of_containers(work, update.container_images, {update.image.digest: local})
    return {"digest": local.digest}


STEPS: tuple[Step[Work], ...] = (
    Step("fetch_image", "pulling the image", fetch_image, _PULL_S, _PATIENCE_S, _STUCK_S),
    Step(
        "fetch_new_image",
        "pulling the new image",
        fetch_new_image,
        _PULL_S,
        _PATIENCE_S,
        _STUCK_S,
    ),
)
