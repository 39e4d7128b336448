"""Steps that bring the image to this host."""

from collections.abc import Mapping
from typing import Any

from godwit.agent.machines.work import Work
from godwit.durable.runner import Step
from godwit.wire import host_rpc

_PULL_S = 1_860.0
"""Longer than the image store gives itself."""
_PATIENCE_S = 300.0


async def _ensure(work: Work, image: host_rpc.ImageRef, token: str | None) -> dict[str, Any]:
    local = await work.host.images.ensure(image, token)
    return {
        "digest": local.digest,
        "path": str(local.path),
        "size_bytes": local.size_bytes,
        "config": local.config.model_dump(mode="json"),
    }


async def fetch_image(work: Work, _: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ensure the machine's image is here, pulled and converted once per digest."""
    return await _ensure(work, work.machine.image, work.machine.pull_token)


async def fetch_new_image(work: Work, _: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ensure the image of the version to come is here, before anything is stopped for it."""
    update = host_rpc.Update.model_validate(work.input["update"])
    local = await work.host.images.ensure(update.image, update.pull_token)
    return {"digest": local.digest}


STEPS: tuple[Step[Work], ...] = (
    Step("fetch_image", "pulling the image", fetch_image, _PULL_S, _PATIENCE_S),
    Step("fetch_new_image", "pulling the new image", fetch_new_image, _PULL_S, _PATIENCE_S),
)
