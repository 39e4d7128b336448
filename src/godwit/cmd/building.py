"""Control's builder on this host: Buildah behind control's port. Used by `cmd.control`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from godwit.base.settings import Settings
from godwit.builder import ports as builder
from godwit.builder.buildah import BuildahBuilder
from godwit.control import ports
from godwit.images.auth import Credentials
from godwit.images.bases import Bases


class HostBuilder:
    """Implements `control.ports.Builder`."""

    def __init__(self, settings: Settings) -> None:
        paths = settings.paths
        self._buildah = BuildahBuilder(
            paths.cache / "builder", paths.run / "builder", Bases(paths.cache / "bases")
        )

    async def build(self, request: ports.BuildRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what happens, and last the image; see the port."""
        asked = builder.BuildRequest(
            context=request.context,
            reference=request.reference,
            org_id=request.org_id,
            app=request.app,
            credentials=Credentials(token=request.push_token),
            dockerfile=request.dockerfile,
            target=request.target,
            args=request.args,
            no_cache=request.no_cache,
            offline=request.offline,
        )
        async with aclosing(self._buildah.build(asked)) as events:
            async for event in events:
                if isinstance(event, builder.BuildLog):
                    yield {"type": "log", "line": event.message}
                elif isinstance(event, builder.BuildNotice):
                    yield {"type": "notice", "message": event.message}
                else:
                    yield {
                        "type": "image",
                        "reference": event.reference,
                        "digest": event.digest,
                    }
