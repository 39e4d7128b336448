"""Control's builder on this host: Buildah behind control's port. Used by `cmd.control`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from godwit.base.settings import Settings
from godwit.builder import jail, storage
from godwit.builder import ports as builder
from godwit.builder.buildah import BuildahBuilder, RunSettings
from godwit.control import ports
from godwit.images.auth import Credentials
from godwit.images.bases import Bases


class HostBuilder:
    """Implements `control.ports.Builder`."""

    def __init__(self, settings: Settings) -> None:
        paths = settings.paths
        self._buildah = BuildahBuilder(
            paths.cache / "builder",
            paths.run / "builder",
            Bases(paths.cache / "bases"),
            settings=RunSettings(settings.build.proxies, settings.build.mounts),
            resolvers=jail.reachable(settings.host.dns_upstreams),
            cache=storage.CacheBounds(
                most_bytes=settings.keep.build_cache_mb * 1024**2,
                most_age_s=settings.keep.build_cache_days * 86_400,
            ),
        )
        self._compression: builder.Compression = (
            "zstd" if settings.build.compression == "zstd" else "gzip"
        )

    async def build(self, request: ports.BuildRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what happens, and last the image; see the port."""
        asked = builder.BuildRequest(
            context=request.context,
            reference=request.reference,
            org_id=request.org_id,
            app=request.app,
            credentials=Credentials(token=request.push_token),
            registries=request.credentials,
            push_limit_bytes=request.push_limit_bytes,
            dockerfile=request.dockerfile,
            target=request.target,
            args=request.args,
            secrets=request.secrets,
            labels=request.labels,
            compression=self._compression,
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
