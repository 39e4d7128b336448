"""The images of a machine: resolved to digests before any host is offered the machine.

Called by `machines` for a new machine and a new version. A machine of containers has one for each;
the machine itself is the image its config names, or that of its main container.
"""

from dataclasses import dataclass

from godwit.base import errors
from godwit.control import registry
from godwit.control.context import Context
from godwit.control.machine_config import MachineConfig
from godwit.control.records import App
from godwit.wire import guest_containers, host_rpc


@dataclass(frozen=True)
class Resolved:
    """What a machine runs.

    Attributes:
        image: The machine itself.
        containers: By their place in the config.
        pull_token: What opens the registry of `image`, as far as a host may keep it.
    """

    image: host_rpc.ImageRef
    containers: tuple[host_rpc.ImageRef, ...] = ()
    pull_token: str | None = None


async def resolve(ctx: Context, app: App, config: MachineConfig) -> Resolved:
    """Return the images of a machine of an app.

    Raises:
        Failure: `manifest_unknown` and whatever else a registry says, of a container with its
            name; `permission_denied` when one belongs to another organization's app.
    """
    found: dict[str, tuple[host_rpc.ImageRef, str | None]] = {}
    references = [container.image for container in config.containers]
    names = [container.name for container in config.containers]
    main = config.image or references[guest_containers.main_of(names)]
    for reference in dict.fromkeys((main, *references)):
        try:
            token = await registry.pull_token(ctx, app, reference)
            found[reference] = (await ctx.images.resolve(reference, token), token)
        except errors.Failure as failure:
            if reference not in references:
                raise
            said = f"container {names[references.index(reference)]}: {failure.message}"
            raise errors.Failure(failure.code, said, hint=failure.hint) from failure
    image, token = found[main]
    return Resolved(
        image=image,
        containers=tuple(found[reference][0] for reference in references),
        pull_token=registry.offered(token),
    )
