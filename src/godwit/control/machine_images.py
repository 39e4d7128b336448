"""The images of a machine: resolved to digests before any host is offered the machine.

Called by `machines` for a new machine and a new version. A machine of containers has one for each;
the machine itself is the image its config names, or that of its main container. Files may be made
of the configs of further images; those are read here, so that a version of a machine has the same
files at every start.
"""

import base64
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from godwit.appconfig.containers import PLACEHOLDER
from godwit.base import errors
from godwit.control import handed, registry
from godwit.control.config_containers import MOST_CONTAINERS
from godwit.control.context import Context
from godwit.control.machine_config import MachineConfig
from godwit.control.records import App
from godwit.images.reference import parse
from godwit.wire import guest_containers, host_rpc

_MACHINES_LOOKED_AT = 100
_MOST_FILE_IMAGES = 4
"""Whose configs are files: all of them have to fit one request to a host."""


@dataclass(frozen=True)
class Resolved:
    """What a machine runs.

    Attributes:
        image: The machine itself.
        containers: By their place in the config; then those of volumes.
        files: Configs of the images that files are made of, in base64, by reference.
        pull_token: What opens the registry of `image`, as far as a host may keep it.
    """

    image: host_rpc.ImageRef
    containers: tuple[host_rpc.ImageRef, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    pull_token: str | None = None


async def resolve(ctx: Context, app: App, config: MachineConfig) -> Resolved:
    """Return the images of a machine of an app.

    Raises:
        Failure: `manifest_unknown` and whatever else a registry says, of a container or volume
            with its name; `permission_denied` when one belongs to another organization's app;
            `invalid_argument` for more images than a machine has disks for.
    """
    found: dict[str, tuple[host_rpc.ImageRef, str | None]] = {}
    shared = [volume for volume in config.volumes if volume.image]
    references = [container.image for container in config.containers]
    references += [volume.image for volume in shared]
    names = [f"container {one.name}" for one in config.containers]
    names += [f"volume {one.name}" for one in shared]
    main = (
        config.image
        or references[guest_containers.main_of([one.name for one in config.containers])]
    )
    for reference in dict.fromkeys((main, *references)):
        try:
            token = await registry.pull_token(ctx, app, reference)
            image = await known(ctx, app, reference) or await ctx.images.resolve(reference, token)
            found[reference] = (image, token)
        except errors.Failure as failure:
            if reference not in references:
                raise
            said = f"{names[references.index(reference)]}: {failure.message}"
            raise errors.Failure(failure.code, said, hint=failure.hint) from failure
    image, token = found[main]
    further_disks = {one.digest for one, _ in found.values()} - {image.digest}
    if len(further_disks) > MOST_CONTAINERS:
        raise errors.invalid(
            f"config: containers and volumes have {len(further_disks)} images beside the machine's"
            f" own, at most {MOST_CONTAINERS} are taken"
        )
    return Resolved(
        image=image,
        containers=tuple(found[reference][0] for reference in references),
        files=await _files(ctx, app, config),
        pull_token=registry.offered(token),
    )


async def known(ctx: Context, app: App, text: str) -> host_rpc.ImageRef | None:
    """Return an image of the platform's registry that a machine of the app was made of already.

    Its digest says all about it, so that a deploy of it needs no registry, which may be away with
    its host. `None` for any other, which is asked for.
    """
    wanted = parse(text)
    if not wanted.digest or wanted.registry != ctx.options.registry:
        return None
    async with ctx.store.read() as rows:
        machines = await rows.placements.of_app(
            app.id, destroyed=False, after=(-1, ""), limit=_MACHINES_LOOKED_AT
        )
    for machine in machines:
        shown = (machine.view or {}).get("image")
        if not shown or shown.get("digest") != wanted.digest:
            continue
        image = host_rpc.ImageRef.model_validate(shown)
        if (image.registry, image.repository) == (wanted.registry, wanted.repository):
            return image.model_copy(update={"reference": text, "tag": wanted.tag})
    return None


def further(config: Mapping[str, Any]) -> list[str]:
    """Return the images that a machine's raw config names besides its own, as they are written.

    Args:
        config: One that was taken, or a part of a release that nobody has checked.
    """
    containers = _objects(config.get("containers"))
    volumes = _objects(config.get("volumes"))
    holders = (config, *containers)
    files = itertools.chain.from_iterable(_objects(one.get("files")) for one in holders)
    named = (
        *(one.get("image") for one in (*containers, *volumes)),
        *(one.get("image_config") for one in files),
    )
    texts = (text for text in named if isinstance(text, str) and text not in ("", PLACEHOLDER))
    return list(dict.fromkeys(texts))


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


async def _files(ctx: Context, app: App, config: MachineConfig) -> dict[str, str]:
    files = itertools.chain(config.files, *(one.files for one in config.containers))
    wanted = dict.fromkeys(file.image_config for file in files if file.image_config)
    if len(wanted) > _MOST_FILE_IMAGES:
        raise errors.invalid(
            f"config.files: {len(wanted)} images as image_config, at most {_MOST_FILE_IMAGES}"
            " are taken"
        )
    return {reference: await _config_of(ctx, app, reference) for reference in wanted}


async def _config_of(ctx: Context, app: App, reference: str) -> str:
    """Return the config of an image in base64."""
    try:
        token = await registry.pull_token(ctx, app, reference)
        document = await ctx.images.config_document(reference, token)
    except errors.Failure as failure:
        said = f"files with image_config {reference}: {failure.message}"
        raise errors.Failure(failure.code, said, hint=failure.hint) from failure
    content = base64.b64encode(document).decode()
    if len(content) > handed.MOST_IMAGE_FILE_BYTES:
        raise errors.invalid(
            f"files with image_config {reference}: its config has {len(document)} bytes, at most"
            f" {handed.MOST_IMAGE_FILE_BYTES // 4 * 3} are taken"
        )
    return content
